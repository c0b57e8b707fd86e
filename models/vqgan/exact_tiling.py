"""Tiles that share the statistics of the whole image, so that together they are what one pass over it would give.

What looks at everything is computed over everything while the grid is small: attention, at the resolutions that have
any. What remains are convolutions, which look a few pixels far, and GroupNorms. Norm after norm, one pass over the
tiles measures the input of a norm over the whole image; then its statistics are fixed, and it is a multiplication.
What enters a norm is kept for the next pass while it is small; beyond that every pass begins anew from what was kept
last. So memory is bounded by the tile and ``KEPT_BYTES``, and a giant image costs about three to five times its time.

Shapes: B images, C channels, g groups of a norm; h x w codes; s pixels of a state to one code.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import VQGAN
from .blocks import DownBlock, Downsample, Level, ResidualBlock, UpBlock, Upsample

KEPT_BYTES = 2 << 30  # of a state of the whole image

State = tuple[Tensor, ...]
"""(x,), or inside of a residual block (its input, what its second norm gets)."""

Norm = Callable[[Tensor], Tensor]


class TiledStage(NamedTuple):
    """A part of a network up to the next GroupNorm."""

    run: Callable[[State, Norm], State]
    norm: nn.GroupNorm | None  # normalizes the state's last tensor
    reach: Fraction  # how far its convolution looks, in codes


@dataclass(frozen=True)
class Statistics:
    """What one GroupNorm does once its statistics are known: scale and shift, each (B, C, 1, 1)."""

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalized."""
        return x * self.scale + self.shift


@torch.no_grad()
def bands(vqgan: VQGAN, codes: Tensor, tile: int, kept_bytes: int = KEPT_BYTES) -> Iterator[Tensor]:
    """(B, h, w) codes to bands of images (B, 3, rows, W) on the CPU, from top to bottom.

    Args:
        vqgan: in evaluation mode.
        codes: on its device.
        tile: codes a side that are computed at once.
        kept_bytes: the largest state of the whole image that is kept.
    """
    decoder = vqgan.decoder
    levels = [level for level in reversed(decoder.up) if isinstance(level, UpBlock)]
    whole = 1 + max((number for number, level in enumerate(levels) if level.attn), default=-1)
    features = vqgan.quantize.lookup(codes).to(vqgan.post_quant_conv.weight.dtype)
    x = decoder.mid(decoder.conv_in(vqgan.post_quant_conv(features)))
    parts: list[TiledStage] = []
    for number, level in enumerate(levels):
        scale = 2**number
        if number < whole:
            x = Level.forward(level, x)  # its blocks; the upsampling behind them is a part
            if number + 1 < whole:
                x = level.upsample(x)
        else:
            parts += [part for block in level.block for part in _residual(block, scale)]
        if number + 1 >= whole and isinstance(level.upsample, Upsample):
            parts.append(_plain(level.upsample, scale * 2))
    parts.append(_last(decoder.norm_out, decoder.conv_out, vqgan.config.factor))
    tiles = Tiles(codes.shape[1], codes.shape[2], tile)
    state, rest, known = _measured((x,), parts, tiles, kept_bytes)
    for row in tiles.rows():
        yield torch.cat([tiles.run(state, rest, known, row, column)[0].float().cpu() for column in tiles.columns()], 3)


@torch.no_grad()
def latents(vqgan: VQGAN, images: Tensor, tile: int, kept_bytes: int = KEPT_BYTES) -> Tensor:
    """(B, 3, H, W) images, or (B, H, W) maps, to the (B, E, h, w) features that the quantizer gets; see ``bands``."""
    encoder, factor, labels = vqgan.encoder, vqgan.config.factor, vqgan.config.num_labels

    def begin(state: State, _: Norm) -> State:
        return (encoder.first(state[0] if labels is None else state[0][:, 0]),)

    levels = [level for level in encoder.down if isinstance(level, DownBlock)]
    tiled = min((number for number, level in enumerate(levels) if level.attn), default=len(levels))
    parts = [TiledStage(begin, None, Fraction(1, factor))]
    for number, level in enumerate(levels[:tiled]):
        scale = factor // 2**number
        parts += [part for block in level.block for part in _residual(block, scale)]
        if isinstance(level.downsample, Downsample):
            parts.append(_plain(level.downsample, scale))
    tiles = Tiles(images.shape[-2] // factor, images.shape[-1] // factor, tile)
    planes = images if labels is None else images[:, None]
    state, rest, known = _measured((planes,), parts, tiles, kept_bytes)
    x = torch.cat(
        [torch.cat([tiles.run(state, rest, known, r, c)[0] for c in tiles.columns()], dim=3) for r in tiles.rows()],
        dim=2,
    )
    for level in levels[tiled:]:
        x = level(x)
    return vqgan.quant_conv(encoder.conv_out(F.silu(encoder.norm_out(encoder.mid(x)))))  # type: ignore[no-any-return]


class Tiles:
    """Tiles over a grid of h x w codes, and running parts of a network on one of them."""

    def __init__(self, height: int, width: int, tile: int) -> None:
        if tile < 1:
            raise ValueError(f"tile must be at least 1 code, got {tile}")
        self.height, self.width, self.tile = height, width, tile

    def rows(self) -> list[slice]:
        """The rows of each row of tiles, in codes."""
        return [slice(begin, min(begin + self.tile, self.height)) for begin in range(0, self.height, self.tile)]

    def columns(self) -> list[slice]:
        """The columns of each column of tiles, in codes."""
        return [slice(begin, min(begin + self.tile, self.width)) for begin in range(0, self.width, self.tile)]

    def run(
        self, state: State, parts: Sequence[TiledStage], known: Sequence[Norm | None], row: slice, column: slice
    ) -> State:
        """What the parts make of one tile of a state of the whole image.

        A tile is seen with as much around it as the parts look. What their convolutions pad it with at its border is
        right where that is the image's border too, and cut off again elsewhere.
        """
        halo = -(-sum((part.reach for part in parts), Fraction()) // 1)
        scale = Fraction(state[0].shape[2], self.height)
        top, left = max(row.start - halo, 0), max(column.start - halo, 0)
        bottom, right = min(row.stop + halo, self.height), min(column.stop + halo, self.width)
        seen = tuple(x[:, :, _scaled(top, bottom, scale), _scaled(left, right, scale)] for x in state)
        for part, norm in zip(parts, known, strict=True):
            seen = part.run(seen, norm or _unnormalized)
        scale = Fraction(seen[0].shape[2], bottom - top)
        kept_rows, kept_columns = (
            _scaled(kept.start - begin, kept.stop - begin, scale) for kept, begin in ((row, top), (column, left))
        )
        return tuple(x[:, :, kept_rows, kept_columns] for x in seen)


def _measured(
    state: State, parts: Sequence[TiledStage], tiles: Tiles, kept_bytes: int
) -> tuple[State, Sequence[TiledStage], list[Norm | None]]:
    """The statistics of every norm; with what was kept last, and the parts that follow it."""
    begin = 0  # the first part behind what was kept
    known: list[Norm | None] = []
    for number, part in enumerate(parts):
        if part.norm is None:
            known.append(None)
            continue
        moments = Moments(part.norm)
        kept: State | None = None
        for row, column in product(tiles.rows(), tiles.columns()):
            made = tiles.run(state, parts[begin:number], known[begin:], row, column)
            moments.add(made[-1])
            if number > begin and kept is None:
                kept = _room(made, tiles, row, column, kept_bytes)
            if kept:
                _put(kept, made, tiles, row, column)
        if kept:
            state, begin = kept, number
        known.append(moments.statistics())
    return state, parts[begin:], known[begin:]


def _room(made: State, tiles: Tiles, row: slice, column: slice, kept_bytes: int) -> State:
    """Room for a state of the whole image, to judge by one tile of it; empty where that would be too large."""
    shares = tiles.height * tiles.width // ((row.stop - row.start) * (column.stop - column.start))
    if sum(x.nbytes for x in made) * shares > kept_bytes:
        return ()
    scale = made[0].shape[2] // (row.stop - row.start)
    return tuple(x.new_empty(*x.shape[:2], tiles.height * scale, tiles.width * scale) for x in made)


def _put(kept: State, made: State, tiles: Tiles, row: slice, column: slice) -> None:
    scale = Fraction(kept[0].shape[2], tiles.height)
    for whole, tile in zip(kept, made, strict=True):
        whole[:, :, _scaled(row.start, row.stop, scale), _scaled(column.start, column.stop, scale)] = tile


class Moments:
    """Mean and variance of a norm's groups over all tiles, in float64 (Chan, Golub and LeVeque 1979)."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        self.norm = norm
        self.count = 0
        self.mean = torch.zeros(())  # (B, g)
        self.deviation = torch.zeros(())  # (B, g): sum of squared distances from the mean

    def add(self, x: Tensor) -> None:
        """(B, C, H, W): one tile more."""
        grouped = x.reshape(len(x), self.norm.num_groups, -1)
        size = grouped.shape[2]
        variance, mean = (moment.double() for moment in torch.var_mean(grouped.float(), dim=2, correction=0))
        if not self.count:
            self.mean, self.deviation = torch.zeros_like(mean), torch.zeros_like(mean)
        apart, total = mean - self.mean, self.count + size
        self.deviation = self.deviation + variance * size + apart.square() * self.count * size / total
        self.mean = self.mean + apart * size / total
        self.count = total

    def statistics(self) -> Statistics:
        """What the norm does with these."""
        inverse = (self.deviation / self.count + self.norm.eps).rsqrt()
        each = self.norm.num_channels // self.norm.num_groups
        mean, inverse = (moment.repeat_interleave(each, dim=1) for moment in (self.mean, inverse))
        scale = inverse * self.norm.weight.double()
        shift = self.norm.bias.double() - mean * scale
        dtype = self.norm.weight.dtype
        return Statistics(scale[..., None, None].to(dtype), shift[..., None, None].to(dtype))


def _residual(block: nn.Module, scale: int) -> list[TiledStage]:
    """The two halves of a residual block whose grid has ``scale`` pixels to a code."""
    if not isinstance(block, ResidualBlock):
        raise TypeError(f"a level is made of residual blocks, got {type(block).__name__}")

    def first(state: State, norm: Norm) -> State:
        return state[0], block.conv1(F.silu(norm(state[0])))

    def second(state: State, norm: Norm) -> State:
        return (block.nin_shortcut(state[0]) + block.conv2(F.silu(norm(state[1]))),)

    reach = Fraction(1, scale)
    return [TiledStage(first, _measurable(block.norm1), reach), TiledStage(second, _measurable(block.norm2), reach)]


def _plain(module: nn.Module, scale: int) -> TiledStage:
    """A convolution without a norm."""
    return TiledStage(lambda state, _: (module(state[0]),), None, Fraction(1, scale))


def _last(norm: nn.Module, convolution: nn.Module, scale: int) -> TiledStage:
    return TiledStage(
        lambda state, normed: (convolution(F.silu(normed(state[0]))),), _measurable(norm), Fraction(1, scale)
    )


def _measurable(norm: nn.Module) -> nn.GroupNorm | None:
    """The norm, or None in a network without norms, whose place an identity holds."""
    return norm if isinstance(norm, nn.GroupNorm) else None


def _unnormalized(x: Tensor) -> Tensor:
    """For parts without a norm, which do not ask."""
    return x


def _scaled(begin: int, end: int, scale: Fraction) -> slice:
    """A stretch of codes as one of pixels."""
    return slice(int(begin * scale), int(end * scale))
