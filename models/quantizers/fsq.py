"""A few fixed levels for each of a few channels, and no codebook at all: Mentzer et al. 2023 (FSQ)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor

from ..bounds import Width, check_ranges
from .base import Quantizer, QuantizerOutput, flatten_grid, straight_through, unflatten_grid

MARGIN = 1e-3  # by which the bound lies beyond the outermost levels, so that these can be reached


@dataclass(frozen=True)
class FSQConfig:
    """The paper's levels: (8, 6, 5) for 240 codes, (8, 5, 5, 5) for 1000, (7, 5, 5, 5, 5) for 4375."""

    kind: Literal["fsq"] = "fsq"
    can_replace_codes: ClassVar[bool] = False
    levels: tuple[Width, ...] = (8, 8, 8, 6, 5)  # of each channel; the first is the fastest digit of a code

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels must name at least 2 steps for each channel, got {self.levels}")

    @property
    def codebook_size(self) -> int:
        """All combinations of levels."""
        return math.prod(self.levels)

    @property
    def dimension(self) -> int:
        """The only width of features it takes."""
        return len(self.levels)

    def build(self, dim: int) -> "FiniteScalarQuantizer":
        """A quantizer of features with ``dim`` channels, one for each entry of ``levels``."""
        if dim != self.dimension:
            raise ValueError(f"fsq with levels {self.levels} takes {self.dimension} channels, got {dim}")
        return FiniteScalarQuantizer(self)


class FiniteScalarQuantizer(Quantizer):
    """Squashes every channel and rounds it to one of its levels, which lie evenly in [-1, 1]."""

    levels: Tensor  # (C,) int64

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        # On the CPU also where models are laid out on the meta device.
        self.register_buffer("levels", torch.tensor(config.levels, device="cpu"), persistent=False)

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); there is nothing to lose."""
        bounded = self._bound(flatten_grid(z))
        steps = straight_through(bounded.round(), bounded)  # integers around 0, (N, C)
        half, place = self._table()
        indices = ((bounded.round() + half) * place).sum(1).long()
        return QuantizerOutput(
            unflatten_grid(steps / half, z).to(z.dtype),
            unflatten_grid(indices, z),
            z.new_zeros((), dtype=torch.float32),
        )

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) levels in [-1, 1]."""
        half, place = self._table()
        digits = indices[..., None] // place.long() % self.levels  # (B, h, w, C)
        return rearrange((digits - half) / half, "b h w c -> b c h w")

    def _table(self) -> tuple[Tensor, Tensor]:
        """Of each channel: the digit that stands for 0, and the place value of its digit; (C,)."""
        place = torch.cat([self.levels.new_ones(1), self.levels.cumprod(0)[:-1]])
        return (self.levels // 2).float(), place.double()

    def _bound(self, rows: Tensor) -> Tensor:
        """(N, C) squashed so that rounding gives each channel's number of integers, around 0 or half a step below."""
        reach = (self.levels - 1) * (1 + MARGIN) / 2
        offset = (self.levels % 2 == 0) * 0.5
        return torch.tanh(rows + torch.atanh(offset / reach)) * reach - offset
