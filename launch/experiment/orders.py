"""The paper's table of orders (appendix F): in which order a transformer reads the codes of an image."""

from statistics import fmean

from ...trainer.reporting.line_plot import Panel
from . import recipes
from .lab import Lab
from .section import TRAINED, Result, spread, trained

PUBLISHED = {
    "raster": 4.767,
    "alternate": 4.812,
    "z_curve": 4.810,
    "spiral_out": 4.889,
    "spiral_in": 4.901,
    "subsample": 5.015,
}


def run(lab: Lab) -> Result:
    """The same transformer on the same codes, in every order."""
    size = lab.size
    tokenizer = lab.train("tokenizer", recipes.tokenizer(size, lab.images, size.multipliers, adversarial=False))
    codes = lab.encode(tokenizer.folder, "codes", size.side)
    rows, found, curves = [], {}, {}
    for order, published in PUBLISHED.items():
        runs, nats = [], []
        for seed in size.seeds:
            model = {**recipes.transformer(size), "order": {"kind": order}}
            config = recipes.prior(size, codes, tokenizer.folder, size.grid, model, seed)
            runs.append(lab.train(f"{order}-{seed}", config))
            nats.append(lab.evaluate(f"{order}-{seed}", runs[-1].folder, codes / "val")["nll"])
        found[order], curves[order] = fmean(nats), runs[0].curve("val/nll")
        rows.append([order, *trained(runs), spread(nats), f"{published:.3f}"])
    ours, theirs = (", ".join(sorted(figures, key=figures.__getitem__)) for figures in (found, PUBLISHED))
    return Result(
        "Orders: raster against others",
        ["order", *TRAINED, "nats a code", "the paper's"],
        rows,
        [f"from the lowest nats a code to the highest: {theirs}"],
        [
            f"From the lowest nats a code to the highest: {ours}. Orders that lie closer than their seeds are not told "
            "apart.",
        ],
        size.seeds,
        [Panel("first seed", "steps", "val nats a code", curves)],
    )
