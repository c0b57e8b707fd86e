"""Encoding and decoding pictures of any size in tiles, so that memory is bounded by the tile.

GroupNorm measures the whole picture it sees, so a tile of the size that the network was trained on is what it knows
best. Each tile is seen with a halo around it, and only its middle is kept.

Shapes: B pictures, H rows and W columns of pixels, h = H / factor and w = W / factor of codes.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from .vqgan import VQGAN


class Span(NamedTuple):
    """One tile along one axis, in codes: what is seen, and what of it is kept."""

    seen: slice
    kept: slice  # of the whole axis
    inside: slice  # the kept part, counted from the beginning of what is seen


def spans(length: int, tile: int, halo: int) -> Iterator[Span]:
    """Tiles along an axis that keep every code once and see ``tile`` codes each (all of them where there are fewer).

    Raises:
        ValueError: the halo leaves nothing of a tile.
    """
    if tile <= 2 * halo:
        raise ValueError(f"tile must be more than twice the halo, got tile {tile} and halo {halo} codes")
    core = tile - 2 * halo
    for begin in range(0, length, core):
        end = min(begin + core, length)
        start = max(min(begin - halo, length - tile), 0)
        stop = min(start + tile, length)
        yield Span(slice(start, stop), slice(begin, end), slice(begin - start, end - start))


@torch.no_grad()
def encode(vqgan: VQGAN, pictures: Tensor, tile: int, halo: int) -> Tensor:
    """(B, 3, H, W) pictures to (B, h, w) codes, by tiles of ``tile`` codes with ``halo`` codes around what is kept."""
    factor = vqgan.config.factor
    batch, _, height, width = pictures.shape
    codes = torch.empty(batch, height // factor, width // factor, dtype=torch.int64, device=pictures.device)
    for rows, columns in _pairs(codes, tile, halo):
        part = pictures[..., _pixels(rows.seen, factor), _pixels(columns.seen, factor)]
        codes[:, rows.kept, columns.kept] = vqgan.encode(part).indices[:, rows.inside, columns.inside]
    return codes


@torch.no_grad()
def decode(vqgan: VQGAN, codes: Tensor, tile: int, halo: int) -> Tensor:
    """(B, h, w) codes to (B, 3, H, W) pictures, by tiles of ``tile`` codes with ``halo`` codes around what is kept."""
    factor = vqgan.config.factor
    batch, rows_all, columns_all = codes.shape
    pictures = torch.empty(batch, vqgan.config.out_channels, rows_all * factor, columns_all * factor)
    for rows, columns in _pairs(codes, tile, halo):
        part = vqgan.decode_codes(codes[:, rows.seen, columns.seen])
        kept = part[..., _pixels(rows.inside, factor), _pixels(columns.inside, factor)]
        pictures[..., _pixels(rows.kept, factor), _pixels(columns.kept, factor)] = kept.float().cpu()
    return pictures


def _pairs(codes: Tensor, tile: int, halo: int) -> Iterator[tuple[Span, Span]]:
    _, rows, columns = codes.shape
    return product(spans(rows, tile, halo), spans(columns, tile, halo))


def _pixels(codes: slice, factor: int) -> slice:
    return slice(codes.start * factor, codes.stop * factor)
