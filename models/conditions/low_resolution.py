"""Superresolution: the image itself, small. Shapes: B samples, (h, w) the window, p pixels a code, C channels."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..bounds import Name, Width, check_ranges
from .base import Fields, SingleCondition, WindowLocations, window_cells


@dataclass(frozen=True)
class LowResolutionConfig:
    """The small image, P x P pixels of it for each code: the field ``field``, (B, channels, h P, w P).

    4 pixels a code at a tokenizer of factor 16 are a fourfold superresolution.
    """

    kind: Literal["low_resolution"] = "low_resolution"
    field: Name = "low"
    pixels_per_code: Width = 4
    channels: Width = 3

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self, width: int, window: tuple[int, int]) -> "LowResolution":
        """The condition of a prior with ``width`` channels that is trained on ``window`` codes."""
        return LowResolution(self, width, window)


class LowResolution(SingleCondition):
    """One token for each cell of the window: its small pixels, float32 in [-1, 1], through a linear layer."""

    def __init__(self, config: LowResolutionConfig, width: int, window: tuple[int, int]) -> None:
        super().__init__(window[0] * window[1], width, window)
        self.fields = (config.field,)
        self.pixels = config.pixels_per_code
        self.project = nn.Linear(config.channels * config.pixels_per_code**2, width)

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, h * w, C)."""
        small = self.field(fields, self.fields[0])
        self._check(small, self.window)
        cells = rearrange(small, "b c (h p) (w q) -> b (h w) (c p q)", p=self.pixels, q=self.pixels)
        tokens: Tensor = self.project(cells.to(self.project.weight.dtype))
        return tokens

    def windows(self, fields: Fields, places: WindowLocations) -> dict[str, Tensor]:
        """The windows' pixels out of those of whole images."""
        small = self.field(fields, self.fields[0])
        self._check(small, places.size)
        rows, columns = places.pixels(self.window, self.pixels)
        cut = small[places.images[:, None, None], :, rows, columns]
        return {self.fields[0]: rearrange(cut, "n h w c -> n c h w")}

    def cells(self) -> Tensor:
        """Each token stands at the cell that it describes."""
        return window_cells(self.window)

    def _check(self, small: Tensor, size: tuple[int, int]) -> None:
        wanted = tuple(side * self.pixels for side in size)
        if small.shape[2:] != wanted:
            raise ValueError(
                f"the field {self.fields[0]!r} must be {wanted} pixels for {size} codes, got {tuple(small.shape[2:])}; "
                "make it with smalti.models.conditions.low_resolution.shrink"
            )


def shrink(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, c, H, W) images at (B, c, *size) by the mean over areas: the low resolution of training data."""
    return F.interpolate(images, size, mode="area")
