"""Latent against pixel-level transformer (Chen et al. 2020) at equal compute: samples, completions of half images."""

from pathlib import Path
from typing import Any

from PIL import Image

from ...trainer.reporting.line_plot import Panel
from . import recipes
from .lab import Lab, TrainedRun
from .objectives import rebuilt
from .section import TRAINED, Result, Strip, trained

SHOWN = 6


def run(lab: Lab) -> Result:
    """The same transformer over codes and over colors of pixels; the latter trains as long as its operations allow."""
    size = lab.size
    tokenizer = lab.train("tokenizer", recipes.tokenizer(size, lab.images, size.multipliers, adversarial=False))
    palette = lab.out / "palette"
    cut = ("--size", f"{size.pixels}x{size.pixels}", "--colors", size.colors)
    lab.do("palette", "palette", lab.images / "train", palette, *cut)
    codes = lab.encode(tokenizer.folder, "codes", size.side)
    pixels = lab.encode(palette, "pixels", size.pixels)
    model, seed = recipes.transformer(size), size.seeds[0]
    latent = lab.train("latent", recipes.prior(size, codes, tokenizer.folder, size.grid, model, seed))
    config = recipes.prior(size, pixels, palette, size.pixels, model, seed)
    steps = equal_steps(lab, config, latent)
    pixel = lab.train("pixel", {**config, "loop": {**config["loop"], "max_steps": steps}})
    rows, curves, distances = [], {}, {}
    strips = [Strip("images", rebuilt(lab, tokenizer.folder, "latent", "originals")[:SHOWN])]
    for name, each, side, shards in (
        ("latent", latent, size.side, codes),
        ("pixel", pixel, size.pixels, pixels),
    ):
        nats = lab.evaluate(f"{name}-codes", each.folder, shards / "val")
        judged = lab.judges(lpips=False)
        sampled = lab.evaluate(f"{name}-samples", each.folder, lab.images / "val", "--size", f"{side}x{side}", *judged)
        length = (size.grid if name == "latent" else size.pixels) ** 2
        operations = _operations(each)
        rows.append([
            name, f"{side} px", f"{length}", *trained([each]), f"{operations / 1e12:.3g}", f"{nats['nll']:.3f}",
            f"{sampled['fid']:.3g}",
        ])  # fmt: skip
        distances[name] = sampled["fid"]
        curves[name] = [(step * each.flops / 1e12, value) for step, value in each.curve("val/normalized_nll")]
        strips.append(Strip(f"completed below the middle, {name}", _completed(lab, name, each.folder, side, strips[0])))
    return Result(
        "Completion: transformers over codes and over pixels, at equal compute",
        ["over", "image", "tokens", *TRAINED, "TFLOP trained", "nats a token", "Frechet distance of samples"],
        rows,
        ["no figure of this comparison"],
        [
            "Equal compute counts the operations of the transformers' training steps; those of training the "
            f"tokenizer ({_operations(tokenizer) / 1e12:.3g} TFLOP) come on top for the latent one.",
            "Nats a token of the two are of different tokens and do not compare; the distances are of the same network "
            "of features, which sees both at 32 pixels where it is random, each from images of its own size.",
            f"{'The latent' if distances['latent'] < distances['pixel'] else 'The pixel-level'} transformer has the "
            "smaller distance.",
        ],
        [seed],
        [Panel("share of ln K", "TFLOP trained", "val", curves)],
        strips,
    )


def equal_steps(lab: Lab, config: dict[str, Any], latent: TrainedRun) -> int:
    """Steps of a config that take as many operations as a run's."""
    flops = lab.step_flops(config)
    return max(1, round(_operations(latent) / flops))


def _operations(run: TrainedRun) -> float:
    """Of all training steps of a run."""
    return run.flops * run.lines[-1]["step"]


def _completed(lab: Lab, name: str, prior: Path, side: int, originals: Strip) -> list[Path]:
    """The files of images whose lower halves are sampled."""
    files = []
    for number, source in enumerate(originals.images):
        photo = lab.out / "halves" / f"{name}-{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as image:
            image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(photo)
        out = lab.out / "completed" / f"{name}-{number}"
        asked = ("--init-image", photo, "--keep-rows", 0.5, "--out", out)
        lab.do(f"complete-{name}-{number}", "sample", prior, *asked)
        files += sorted(out.glob("*.png"))
    return files
