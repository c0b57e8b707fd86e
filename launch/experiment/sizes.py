"""How large an experiment is: data, networks and steps of each size.

``smoke`` is a few steps, to see that everything works; ``tiny`` is for two CPU cores, ``small`` for one GPU and some
hours, ``paper`` has the paper's networks. Only what was run has figures.
"""

from typing import Literal, NamedTuple

Name = Literal["smoke", "tiny", "small", "paper"]


class Size(NamedTuple):
    """One size of all experiments."""

    images: int  # landscapes to render where no data are given; 0: data must be given
    val: int  # of them kept aside
    rendered: tuple[int, int]  # pixels of a landscape
    side: int  # pixels of the square that a tokenizer is given of an image
    channels: int  # of the tokenizer's highest resolution
    multipliers: tuple[int, ...]  # of its widths; a level more halves once more
    res_blocks: int
    latent: int  # channels of a code
    norm_groups: int
    codes: int
    tokenizer_steps: int
    tokenizer_batch: int
    tokenizer_rate: float
    discriminator: int  # channels
    disc_start: int
    trunk: Literal["random", "vgg16"]  # of LPIPS, in training and in evaluation
    features: Literal["random", "inception"]  # of Frechet distances
    layers: int  # of the transformer
    heads: int
    width: int
    snail: tuple[int, int, int, int]  # width, blocks, residual blocks and heads of PixelSNAIL
    prior_steps: int
    prior_batch: int
    prior_rate: float
    pixels: int  # side of what the pixel-level transformer sees
    colors: int  # of its palette
    crops: int  # encoded of each image
    seeds: tuple[int, ...]  # of the priors
    micro: int  # samples that a GPU sees at once
    precision: Literal["fp32", "bf16"]
    workers: int

    @property
    def grid(self) -> int:
        """Codes of a side."""
        return self.side >> (len(self.multipliers) - 1)


SIZES: dict[Name, Size] = {
    "smoke": Size(
        images=24, val=8, rendered=(80, 96), side=32, channels=8, multipliers=(1, 2, 2), res_blocks=1, latent=8,
        norm_groups=0, codes=16, tokenizer_steps=2, tokenizer_batch=4, tokenizer_rate=1e-3, discriminator=16,
        disc_start=1, trunk="random", features="random", layers=1, heads=2, width=16, snail=(8, 1, 1, 2),
        prior_steps=2, prior_batch=4, prior_rate=1e-3, pixels=8, colors=8, crops=1, seeds=(0,), micro=4,
        precision="fp32", workers=0,
    ),
    "tiny": Size(
        images=640, val=96, rendered=(96, 128), side=64, channels=16, multipliers=(1, 2, 4, 4), res_blocks=1, latent=16,
        norm_groups=0, codes=64, tokenizer_steps=160, tokenizer_batch=8, tokenizer_rate=1e-3, discriminator=16,
        disc_start=80, trunk="random", features="random", layers=4, heads=4, width=128, snail=(80, 2, 1, 4),
        prior_steps=240, prior_batch=16, prior_rate=1e-3, pixels=16, colors=64, crops=2, seeds=(0, 1), micro=16,
        precision="fp32", workers=0,
    ),
    "small": Size(
        images=4000, val=400, rendered=(320, 384), side=256, channels=64, multipliers=(1, 1, 2, 2, 4), res_blocks=2,
        latent=64, norm_groups=32, codes=1024, tokenizer_steps=20_000, tokenizer_batch=16, tokenizer_rate=1e-4,
        discriminator=64, disc_start=8000, trunk="vgg16", features="inception", layers=12, heads=8, width=512,
        snail=(192, 8, 4, 8), prior_steps=20_000, prior_batch=64, prior_rate=3e-4, pixels=32, colors=512, crops=4,
        seeds=(0, 1, 2), micro=16, precision="bf16", workers=4,
    ),
    "paper": Size(
        images=0, val=0, rendered=(0, 0), side=256, channels=128, multipliers=(1, 1, 2, 2, 4), res_blocks=2, latent=256,
        norm_groups=32, codes=1024, tokenizer_steps=900_000, tokenizer_batch=12, tokenizer_rate=5.4e-5,
        discriminator=64, disc_start=250_001, trunk="vgg16", features="inception", layers=24, heads=16, width=1024,
        snail=(352, 12, 4, 8), prior_steps=300_000, prior_batch=32, prior_rate=1.4e-4, pixels=32, colors=512, crops=1,
        seeds=(0,), micro=4, precision="fp32", workers=4,
    ),
}  # fmt: skip
