"""Encoding and decoding images of any size, whole or in tiles.

GroupNorm and attention measure the whole image that they see, so tiles are a choice of what they measure:

    whole     one pass over everything: what the network defines, in memory that grows with the image
    shared    tiles that share the statistics of the whole image: equal to ``whole``, slower (``shared_statistics``)
    blended   tiles of their own statistics, each as large as what the network learnt, overlapping; their images fade
              into each other, and of codes each is taken from the tile that sees most around it

Shapes: B images, H rows and W columns of pixels, h = H / factor and w = W / factor of codes.
"""

from collections.abc import Iterator
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import exact_tiling
from .autoencoder import VQGAN
from .palette import Palette


class Tiling(NamedTuple):
    """The tiles in which whole images are encoded; part of what the code shards say of themselves."""

    tile: int  # in codes, halo included
    halo: int  # in codes


Manner = Literal["whole", "shared", "blended"]


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
    if halo < 0 or tile <= 2 * halo:
        raise ValueError(f"tile must be more than twice the halo, got tile {tile} and halo {halo} codes")
    core = tile - 2 * halo if length > tile else length
    for begin in range(0, length, core):
        end = min(begin + core, length)
        start = max(min(begin - halo, length - tile), 0)
        stop = min(start + tile, length)
        yield Span(slice(start, stop), slice(begin, end), slice(begin - start, end - start))


@torch.no_grad()
def encode(
    vqgan: VQGAN | Palette,
    images: Tensor,
    tile: int,
    halo: int,
    manner: Manner = "blended",
    masked: Tensor | None = None,
) -> Tensor:
    """(B, 3, H, W) images, or (B, H, W) maps, to (B, h, w) codes.

    Args:
        vqgan: in evaluation mode; a palette sees single pixels, so tiles change nothing of what it gives.
        images: on its device, in [-1, 1]; maps of labels for a network of maps.
        tile: codes a side that the network sees at once.
        halo: codes at a tile's border that are seen but not kept.
        manner: see the head of this file.
        masked: (B, H, W) bool, pixels that are to be made anew, for a mask-aware network; see ``VQGAN.latents``.

    Raises:
        ValueError: a mask, and tiles of shared statistics, which know none.
    """
    if manner == "whole" or isinstance(vqgan, Palette):
        return vqgan.encode(images, masked).indices
    if manner == "shared":
        if masked is not None:
            raise ValueError("tiles of shared statistics know no mask; encode blended tiles, or the whole image")
        return vqgan.quantize(exact_tiling.latents(vqgan, images, tile)).indices  # type: ignore[no-any-return]
    factor = vqgan.config.factor
    height, width = images.shape[-2:]
    codes = torch.empty(len(images), height // factor, width // factor, dtype=torch.int64, device=images.device)
    for rows, columns in product(spans(codes.shape[1], tile, halo), spans(codes.shape[2], tile, halo)):
        seen = (..., _pixels(rows.seen, factor), _pixels(columns.seen, factor))
        found = vqgan.encode(images[seen], None if masked is None else masked[seen]).indices
        codes[:, rows.kept, columns.kept] = found[:, rows.inside, columns.inside]
    return codes


def decode(vqgan: VQGAN | Palette, codes: Tensor, tile: int, halo: int, manner: Manner = "blended") -> Tensor:
    """(B, h, w) codes to (B, 3, H, W) float32 images on the CPU; the arguments are those of ``encode``."""
    return torch.cat(list(bands(vqgan, codes, tile, halo, manner)), dim=2)


def bands(vqgan: VQGAN | Palette, codes: Tensor, tile: int, halo: int, manner: Manner = "blended") -> Iterator[Tensor]:
    """The same images as bands of rows from top to bottom, (B, 3, rows, W), so that no whole image is ever held."""
    if manner == "whole" or isinstance(vqgan, Palette):
        yield _decode(vqgan, codes)
    elif manner == "shared":
        yield from exact_tiling.bands(vqgan, codes, tile)
    else:
        yield from _blended(vqgan, codes, tile, halo)


def borders(length: int, tile: int, halo: int, manner: Manner) -> list[int]:
    """Where along an axis of so many codes a tile gives way to the next one, in codes."""
    if manner == "whole":
        return []
    if manner == "shared":
        return list(range(tile, length, tile))
    return [span.kept.start for span in spans(length, tile, halo)][1:]


def _blended(vqgan: VQGAN, codes: Tensor, tile: int, halo: int) -> Iterator[Tensor]:
    """Rows of tiles, each faded into the one above; rows that the next one does not touch are finished."""
    rows, columns = (list(spans(length, tile, halo)) for length in codes.shape[1:])
    factor = vqgan.config.factor
    down, across = (fades(axis, halo, factor) for axis in (rows, columns))
    unfinished = torch.zeros(())
    for number, row in enumerate(rows):
        band = _row_of_tiles(vqgan, codes[:, row.seen], columns, across) * down[number][:, None]
        if number:
            band[:, :, : unfinished.shape[2]] += unfinished
        end = rows[number + 1].seen.start if number + 1 < len(rows) else row.seen.stop
        finished = (end - row.seen.start) * factor
        yield band[:, :, :finished]
        unfinished = band[:, :, finished:]


def _row_of_tiles(vqgan: VQGAN, codes: Tensor, columns: list[Span], fade: list[Tensor]) -> Tensor:
    """(B, tile, w) codes to (B, 3, tile * factor, W), tile by tile."""
    factor = vqgan.config.factor
    band = torch.zeros(
        len(codes), vqgan.decoder.conv_out.out_channels, codes.shape[1] * factor, codes.shape[2] * factor
    )
    for column, weight in zip(columns, fade, strict=True):
        band[..., _pixels(column.seen, factor)] += _decode(vqgan, codes[..., column.seen]) * weight
    return band


def fades(tiles: list[Span], halo: int, factor: int) -> list[Tensor]:
    """How much each tile along an axis counts at each of its pixels; all that lie over a pixel sum to 1.

    Where two tiles overlap by twice the halo, the outer quarters belong to one of them alone, as a tile knows least at
    its border; in the middle half one fades into the other.
    """
    length = tiles[-1].seen.stop * factor
    weights = []
    for seen, _, _ in tiles:
        place = torch.arange(seen.start * factor, seen.stop * factor, dtype=torch.float64) + 0.5
        weight = torch.ones_like(place)
        ramp = max(halo * factor, 1)
        if seen.start > 0:
            weight = weight.minimum((place - seen.start * factor - ramp / 2) / ramp)
        if seen.stop * factor < length:
            weight = weight.minimum((seen.stop * factor - place - ramp / 2) / ramp)
        weights.append(weight.clamp(min=0) if halo else torch.ones_like(place))
    total = torch.zeros(length, dtype=torch.float64)
    for (seen, _, _), weight in zip(tiles, weights, strict=True):
        total[_pixels(seen, factor)] += weight
    return [
        (weight / total[_pixels(seen, factor)]).float() for (seen, _, _), weight in zip(tiles, weights, strict=True)
    ]


@torch.no_grad()
def _decode(vqgan: VQGAN | Palette, codes: Tensor) -> Tensor:
    return vqgan.decode_codes(codes).float().cpu()


def _pixels(codes: slice, factor: int) -> slice:
    return slice(codes.start * factor, codes.stop * factor)
