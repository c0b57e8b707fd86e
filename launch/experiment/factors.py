"""Depth of compression (section 4.3 of the paper): reconstruction and likelihood against the downsampling blocks."""

import math
from statistics import fmean

from ...trainer.reporting.line_plot import Panel
from . import recipes
from .lab import Lab
from .objectives import rebuilt
from .section import TRAINED, Result, Strip, spread, trained

SHOWN = 6


def run(lab: Lab) -> Result:
    """Tokenizers of 1 to m blocks, and the same transformer over windows of equally many codes of each."""
    size = lab.size
    rows, psnr, nats = [], [], []
    strips: list[Strip] = []
    for blocks in range(1, len(size.multipliers)):
        factor = 2**blocks
        config = recipes.tokenizer(size, lab.images, size.multipliers[: blocks + 1], adversarial=False)
        tokenizer = lab.train(f"tokenizer-f{factor}", config)
        figures = lab.evaluate(f"tokenizer-f{factor}", tokenizer.folder, lab.images / "val", *lab.judges(lpips=False))
        codes = lab.encode(tokenizer.folder, f"codes-f{factor}", size.side)
        runs, bits = [], []
        for seed in size.seeds:
            stem = f"prior-f{factor}-{seed}"
            prior = recipes.prior(size, codes, tokenizer.folder, size.grid, recipes.transformer(size), seed)
            runs.append(lab.train(stem, prior))
            bits.append(lab.evaluate(stem, runs[-1].folder, codes / "val")["bits_per_pixel"])
        rows.append([
            f"{factor}", f"{size.grid * factor} px", *trained(runs), f"{figures['psnr']:.2f}", f"{figures['rfid']:.3g}",
            spread([value * math.log(2) * factor**2 for value in bits]), spread(bits, 4),
        ])  # fmt: skip
        psnr.append((float(blocks), figures["psnr"]))
        nats.append((float(blocks), fmean(bits)))
        if not strips:
            strips.append(Strip("images", rebuilt(lab, tokenizer.folder, f"f{factor}", "originals")[:SHOWN]))
        strips.append(Strip(f"rebuilt, f{factor}", rebuilt(lab, tokenizer.folder, f"f{factor}")[:SHOWN]))
        asked = ("--size", f"{size.side}x{size.side}", "--count", SHOWN, "--batch", SHOWN, "--stride", size.grid // 2)
        lab.do(f"samples-f{factor}", "sample", runs[0].folder, "--out", lab.out / f"samples-f{factor}", *asked)
        strips.append(Strip(f"sampled, f{factor}", sorted((lab.out / f"samples-f{factor}").glob("*.png"))[:SHOWN]))
    features = "random features" if size.features == "random" else "Inception"
    return Result(
        "Factors: how deep a tokenizer compresses",
        [
            "factor",
            "window sees",
            *TRAINED,
            "PSNR, dB",
            f"Frechet distance ({features})",
            "nats a code",
            "bits a pixel",
        ],
        rows,
        ["figure 7 shows samples and distances against the factor as images and curves, without a table of numbers"],
        [
            f"Every transformer sees {size.grid} x {size.grid} codes, so its window covers more of an image the deeper "
            "the tokenizer; larger grids are sampled with the sliding window. Bits a pixel fall with the depth because "
            "codes become fewer, and with them what can be rebuilt: the two columns are to be read together.",
        ],
        size.seeds,
        [
            Panel("reconstruction", "downsampling blocks", "PSNR, dB", {"tokenizer": psnr}),
            Panel("likelihood", "downsampling blocks", "bits a pixel", {"transformer": nats}),
        ],
        strips,
    )
