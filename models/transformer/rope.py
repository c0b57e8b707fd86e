"""Two-dimensional rotary positions: half of a head's channels turn with the row, half with the column.

RoFormer (Su et al. 2021, equation 34), applied to each axis as in the vision models that followed.
Shapes: T positions, D channels of a head.
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

BASE = 10_000.0


class RopeTables(NamedTuple):
    """The angles of T positions, with leading axes that broadcast against (B, heads) where samples differ."""

    cosine: Tensor  # (..., T, D)
    sine: Tensor  # (..., T, D)


def rope_tables(cells: Tensor, channels: int) -> RopeTables:
    """The tables for heads of ``channels`` channels at (..., T, 2) cells, each a row and a column.

    What stands at no cell, at a negative one, has tables of zeros: its query and its key become zeros, so that the
    logits of attention are 0 wherever it takes part.

    Raises:
        ValueError: the channels do not split into pairs for two axes.
    """
    if channels % 4:
        raise ValueError(f"two-dimensional rotary positions need heads of a multiple of 4 channels, got {channels}")
    quarter = channels // 4
    frequencies = BASE ** (-torch.arange(quarter, device=cells.device, dtype=torch.float64) / quarter)
    angles = rearrange(cells.double()[..., None] * frequencies, "... place q -> ... (place q)")
    angles = repeat(angles, "... half -> ... (pair half)", pair=2)
    stands = (cells[..., :1] >= 0).float()
    return RopeTables(angles.cos().float() * stands, angles.sin().float() * stands)


def apply_rope(x: Tensor, by: RopeTables) -> Tensor:
    """Turn the channels (B, heads, T, D) of queries or keys; channel c pairs with channel c + D / 2."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * by.cosine + turned * by.sine).to(x.dtype)


def paired(tables: RopeTables) -> RopeTables:
    """The tables for ``rotate_paired``: the first half of the sines turns the other way."""
    first, second = tables.sine.chunk(2, dim=-1)
    return RopeTables(tables.cosine, torch.cat((-first, second), dim=-1))


def rotate_paired(x: Tensor, by: RopeTables) -> Tensor:
    """As ``rotate``, in three kernels; ``by`` comes from ``paired``."""
    return torch.addcmul(x * by.cosine, x.roll(x.shape[-1] // 2, dims=-1), by.sine).to(x.dtype)
