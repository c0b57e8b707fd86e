"""The tokenizer of pixels: a palette of colors, each code the nearest one to a single pixel. Chen et al. 2020.

What a prior over pixels reads in place of a VQGAN's codes: factor 1, no network, and no loss but the colors' own.
Shapes: B images of H x W pixels, K colors.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..bounds import Count, check_ranges
from ..quantizers import QuantizerOutput, VQConfig
from ..quantizers.vq import check_codebook
from .autoencoder import Reconstruction


@dataclass(frozen=True)
class PaletteConfig:
    """A palette; the default has the 9 bits of Chen et al. 2020."""

    kind: Literal["palette"] = "palette"
    codebook_size: Count = 512  # K
    factor: ClassVar[int] = 1  # pixels of an image's side to one code
    num_labels: ClassVar[None] = None
    in_channels: ClassVar[int] = 3
    out_channels: ClassVar[int] = 3
    mask_aware: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codebook_size)

    def build(self) -> "Palette":
        """A palette whose colors are still to be found."""
        return Palette(self)


class Palette(nn.Module):
    """Pixels to the nearest of K colors and back; what samplers and tasks ask of a tokenizer."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.config = config
        self.quantize = VQConfig(codebook_size=config.codebook_size).build(config.in_channels)

    def forward(self, images: Tensor) -> Reconstruction:
        """(B, 3, H, W) images in [-1, 1], each pixel in its color of the palette."""
        quantized = self.encode(images)
        return Reconstruction(quantized.features, images, quantized, images)

    @torch.no_grad()
    def fill(self, pixels: Tensor, seed: int) -> None:
        """Take the k-means of (N, 3) pixels in [-1, 1] for colors; the same wherever pixels, order and seed are."""
        self.quantize.embedding.weight.copy_(self.quantize.init_codebook(pixels, seed))

    def encode(self, images: Tensor, masked: Tensor | None = None) -> QuantizerOutput:
        """(B, 3, H, W) images in [-1, 1] to (B, H, W) colors.

        Raises:
            ValueError: a mask, for every pixel is coded by itself.
        """
        if masked is not None:
            raise ValueError("a palette knows no masks; train a VQGAN with model.mask_aware: true")
        return self.quantize(images.float())  # type: ignore[no-any-return]

    def decode_codes(self, indices: Tensor) -> Tensor:
        """(B, H, W) colors to (B, 3, H, W) images."""
        return self.quantize.lookup(indices)
