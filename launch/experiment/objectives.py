"""The same autoencoder under the objective of the VQ-VAE (squared error) and of the VQGAN (LPIPS, discriminator)."""

from collections.abc import Mapping
from pathlib import Path

from ...trainer.reporting.line_plot import Panel
from . import recipes
from .lab import Lab
from .recipes import TOKENIZER_SEED
from .section import TRAINED, Result, Strip, trained

SHOWN = 6
OBJECTIVES = {"VQ-VAE": False, "VQGAN": True}
FIGURES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "rfid": "the Frechet distance"}
LARGER_IS_BETTER = ("psnr", "ssim")


def run(lab: Lab) -> Result:
    """Both, on the same images and for the same steps."""
    size = lab.size
    rows, curves, found = [], {}, {}
    strips: list[Strip] = []
    for name, adversarial in OBJECTIVES.items():
        stem = name.lower().replace("-", "")
        trained_run = lab.train(stem, recipes.tokenizer(size, lab.images, size.multipliers, adversarial))
        found[name] = lab.evaluate(stem, trained_run.folder, lab.images / "val", *lab.judges())
        rows.append([name, *trained([trained_run]), *(f"{found[name][figure]:.4g}" for figure in FIGURES)])
        curves[name] = trained_run.curve("val/psnr")
        if not strips:
            strips.append(Strip("images", rebuilt(lab, trained_run.folder, stem, "originals")[:SHOWN]))
        strips.append(Strip(name, rebuilt(lab, trained_run.folder, stem)[:SHOWN]))
    random = size.trunk == "random"
    notes = [verdict(found), "The discriminator's own parameters are not counted."]
    if random:
        notes.append(
            "LPIPS has a random trunk here, in training and as a figure, and the distance is of random features: they "
            "show that the commands work, not what the published losses are worth."
        )
    return Result(
        "VQ-VAE against VQGAN: one network, two objectives",
        ["objective", *TRAINED, "PSNR, dB", "SSIM", f"LPIPS{' (random trunk)' if random else ''}", "Frechet distance"],
        rows,
        [
            "rFID on ImageNet's validation images (table 5): 1.49 of a VQGAN of factor 8 with 8192 Gumbel codes, 32.01 "
            "of DALL-E's, which has no discriminator; their networks and data differ as well",
        ],
        notes,
        [TOKENIZER_SEED],
        [Panel("reconstruction", "steps", "val PSNR, dB", curves)],
        strips,
    )


def verdict(found: Mapping[str, Mapping[str, float]]) -> str:
    """In which figures the VQGAN is ahead."""
    signs = {figure: 1 if figure in LARGER_IS_BETTER else -1 for figure in FIGURES}
    ahead = [
        name
        for figure, name in FIGURES.items()
        if signs[figure] * found["VQGAN"][figure] > signs[figure] * found["VQ-VAE"][figure]
    ]
    return f"After these steps the VQGAN is ahead in {', '.join(ahead) or 'none of the figures'}."


def rebuilt(lab: Lab, tokenizer: Path, name: str, kind: str = "reconstructions") -> list[Path]:
    """Files of validation images as a tokenizer rebuilds them, or as they are (``originals``)."""
    out, side = lab.out / f"rebuilt-{name}", f"{lab.size.side}x{lab.size.side}"
    cut = ("--size", side, "--scale", "inf", "inf")
    lab.do(f"rebuild-{name}", "reconstruct", tokenizer, lab.images / "val", "--out", out, *cut)
    return sorted((out / kind).glob("*.png"))
