"""Where in its image a crop lies, for aligned data such as faces: as codes or as continuous features.

Shapes: B samples, (h, w) the window, C channels of the prior.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..bounds import Count, Width, check_ranges
from .base import Fields, SingleCondition, WindowLocations, window_cells


class Located(SingleCondition):
    """A condition computed from where the window lies.

    Fields: ``box`` (B, 4) = (left, top, right, bottom) and ``source_size`` (B, 2) = (height, width), both in pixels of
    the source; ``flip`` (B,) bool, true where the crop was mirrored after it was cut.
    """

    fields: tuple[str, ...] = ("box", "source_size", "flip")

    def windows(self, fields: Fields, places: WindowLocations) -> dict[str, torch.Tensor]:
        """The windows' boxes out of those of whole images, mirrored images included."""
        cut = super().windows(fields, places)
        left, top, right, bottom = cut["box"].float().unbind(1)
        rows, columns = self.window
        height, width = places.size
        column = torch.where(cut["flip"].bool(), width - places.lefts - columns, places.lefts)
        across, down = (right - left) / width, (bottom - top) / height
        box = (
            left + across * column,
            top + down * places.tops,
            left + across * (column + columns),
            top + down * (places.tops + rows),
        )
        return cut | {"box": torch.stack(box, dim=1)}


class LocatedCells(Located):
    """One token for each cell of the window, in raster order."""

    def centers(self, fields: Fields) -> Tensor:
        """(B, h * w, 2): row and column of every cell's center as shares of the source, float32 in (0, 1)."""
        rows, columns = self.window
        left, top, right, bottom = self.field(fields, "box").float().unbind(1)
        height, width = self.field(fields, "source_size").float().unbind(1)
        down, across = ((torch.arange(side, device=left.device) + 0.5) / side for side in (rows, columns))
        down, across = down.repeat_interleave(columns), across.repeat(rows)
        across = torch.where(self.field(fields, "flip").bool()[:, None], 1 - across, across)
        y = (top[:, None] + (bottom - top)[:, None] * down) / height[:, None]
        x = (left[:, None] + (right - left)[:, None] * across) / width[:, None]
        return torch.stack((y, x), dim=-1)

    def cells(self) -> Tensor:
        """Each token stands at the cell that it describes."""
        return window_cells(self.window)


@dataclass(frozen=True)
class CoordinatesConfig:
    """The raster position of each cell in its source, as one of ``vocab_size`` numbers (as CoordStage)."""

    kind: Literal["coordinates"] = "coordinates"
    vocab_size: Count = 1024

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {self.vocab_size}")

    def build(self, width: int, window: tuple[int, int]) -> "Coordinates":
        """The condition of a prior with ``width`` channels that is trained on ``window`` codes."""
        return Coordinates(self.vocab_size, width, window)


class Coordinates(LocatedCells):
    """One token for each cell of the window: the mean raster number of its pixels over the number of pixels."""

    def __init__(self, codes: int, width: int, window: tuple[int, int]) -> None:
        super().__init__(window[0] * window[1], width, window)
        self.table = nn.Embedding(codes, width)

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, h * w, C)."""
        tokens: Tensor = self.table(self.codes(fields))
        return tokens

    def codes(self, fields: Fields) -> Tensor:
        """(B, h * w) int64. A pixel at row y, column x has the raster number y * width + x, both counted from 0."""
        height, width = self.field(fields, "source_size").float().unbind(1)
        y, x = self.centers(fields).unbind(-1)
        row, column = y * height[:, None] - 0.5, x * width[:, None] - 0.5
        share = (row * width[:, None] + column) / (height * width)[:, None]
        steps = self.table.num_embeddings
        return (share * steps).round().long().clamp(0, steps - 1)


@dataclass(frozen=True)
class CoordinateFeaturesConfig:
    """The same as waves of ``frequencies`` octaves through a linear layer; crops of any size and place differ."""

    kind: Literal["coordinate_features"] = "coordinate_features"
    frequencies: Width = 8

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.frequencies > 20:
            raise ValueError(f"frequencies must be 1 to 20 octaves, got {self.frequencies}")

    def build(self, width: int, window: tuple[int, int]) -> "CoordinateFeatures":
        """The condition of a prior with ``width`` channels that is trained on ``window`` codes."""
        return CoordinateFeatures(self.frequencies, width, window)


class CoordinateFeatures(LocatedCells):
    """One token for each cell of the window: waves of its center, and the logarithm of the cell's size."""

    def __init__(self, frequencies: int, width: int, window: tuple[int, int]) -> None:
        super().__init__(window[0] * window[1], width, window)
        self.frequencies = frequencies
        self.project = nn.Linear(4 * frequencies + 2, width)

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, h * w, C)."""
        tokens: Tensor = self.project(self.features(fields).to(self.project.weight.dtype))
        return tokens

    def features(self, fields: Fields) -> Tensor:
        """(B, h * w, 4 * frequencies + 2) float32, each in about [-1, 1] but the logarithms of the size."""
        octaves = 2.0 ** torch.arange(self.frequencies, device=self.project.weight.device)
        angles = rearrange(self.centers(fields)[..., None] * octaves * math.pi, "b n yx f -> b n (yx f)")
        left, top, right, bottom = self.field(fields, "box").float().unbind(1)
        shares = torch.stack((bottom - top, right - left), dim=1) / self.field(fields, "source_size").float()
        scale = repeat(shares.log2(), "b yx -> b n yx", n=self.length)
        return torch.cat((angles.sin(), angles.cos(), scale), dim=-1)
