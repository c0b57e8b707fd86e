"""The paper's table 1: validation likelihood of its transformer and of PixelSNAIL, at equal steps and at equal time."""

from statistics import fmean

from ...trainer.reporting.line_plot import Panel
from . import recipes
from .lab import Lab, TrainedRun
from .section import TRAINED, Result, spread, trained

CONDITIONS = {
    "unconditional": {"kind": "unconditional"},
    "map": {"kind": "code_map", "field": "segmentation_codes", "vocab_size": 256},
}


def run(lab: Lab) -> Result:
    """Both networks, unconditional and conditioned on label maps, on the same codes."""
    size = lab.size
    tokenizer = lab.train("tokenizer", recipes.tokenizer(size, lab.images, size.multipliers, adversarial=False))
    codes = lab.encode(tokenizer.folder, "codes", size.side)
    models = {"transformer": recipes.transformer(size), "PixelSNAIL": recipes.pixelsnail(size)}
    rows, findings, panels = [], [], []
    for condition, section in CONDITIONS.items():
        runs: dict[str, list[TrainedRun]] = {name: [] for name in models}
        likelihoods: dict[str, list[float]] = {name: [] for name in models}
        for name, model in models.items():
            for seed in size.seeds:
                config = recipes.prior(size, codes, tokenizer.folder, size.grid, model, seed)
                stem = f"{condition}-{name.lower()}-{seed}"
                runs[name].append(lab.train(stem, {**config, "condition": section}))
                likelihoods[name].append(lab.evaluate(stem, runs[name][-1].folder, codes / "val")["nll"])
        in_time = {name: [] for name in models}  # type: dict[str, list[float]]
        for pair in zip(*runs.values(), strict=True):
            limit = min(each.seconds_at(each.lines[-1]["step"]) for each in pair)
            for name, each in zip(models, pair, strict=True):
                in_time[name].append(at_time(each, limit))
        for name in models:
            figures = [spread(likelihoods[name]), spread(in_time[name])]
            rows.append([condition, name, *trained(runs[name]), *figures])
        findings.append(verdict(condition, likelihoods, "steps"))
        findings.append(verdict(condition, in_time, "time"))
        panels += _panels(condition, {name: each[0] for name, each in runs.items()})
    return Result(
        "Table 1: transformer against PixelSNAIL",
        ["condition", "model", *TRAINED, "nats a code, equal steps", "nats a code, equal time"],
        rows,
        [
            "transformer at equal steps / at equal time / PixelSNAIL: unconditional LSUN churches 4.63 / 4.69 / 4.89, "
            "maps of S-FLCKR 4.49 / 4.57 / 4.64, of networks of about 310 M parameters at 256 pixels",
        ],
        [
            *findings,
            "Equal time is the seconds of training steps of the quicker of the two, evaluations left out; the other's "
            "figure is that of its last evaluation within them. Beside other jobs on the machine these "
            "seconds say little.",
        ],
        size.seeds,
        panels,
    )


def at_time(run: TrainedRun, seconds: float) -> float:
    """The likelihood of the last evaluation that a run reached within some seconds of training."""
    reached = [nll for step, nll in run.curve("val/nll") if run.seconds_at(step) <= seconds * (1 + 1e-9)]
    return reached[-1]


def verdict(condition: str, nats: dict[str, list[float]], equal: str) -> str:
    """Which network is ahead, by the means of seeds, and whether the seeds tell them apart."""
    ours, theirs = nats["transformer"], nats["PixelSNAIL"]
    ahead = "is ahead" if fmean(ours) < fmean(theirs) else "is NOT ahead"
    apart = max(ours) < min(theirs) or max(theirs) < min(ours)
    unsure = "" if apart else "; the seeds of one reach into those of the other"
    return (
        f"{condition}: at equal {equal} the transformer {ahead}, {fmean(ours):.3f} against {fmean(theirs):.3f} nats a "
        f"code{unsure}."
    )


def _panels(condition: str, runs: dict[str, TrainedRun]) -> list[Panel]:
    steps = {name: each.curve("val/nll") for name, each in runs.items()}
    times = {name: [(each.seconds_at(x), y) for x, y in each.curve("val/nll")] for name, each in runs.items()}
    return [
        Panel(f"{condition}, first seed", "steps", "val nats a code", steps),
        Panel(f"{condition}, first seed", "seconds of training", "val nats a code", times),
    ]
