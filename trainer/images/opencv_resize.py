"""Resizing in the arithmetic of OpenCV 4 (``cv2.resize``), of which any part of the result can be had alone.

Bilinear uint8 images and nearest labels are equal to OpenCV's to the bit. Bicubic images are computed in float64: the
x86 builds of OpenCV leave them to Intel's IPP, whose float32 rounds values near a half otherwise (42 of 5 million
values of noise at random sizes, by one gray level: opencv-python-headless 4.11, 2026-11-28). So are depths, where IPP's
own error is 1e-5 of a range of 2.

Shapes: h rows and w columns of the pixels at hand, R rows and S columns of the part that is wanted, D channels.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from .decode import Pixels
from .geometry import Region

Interpolation = Literal["bilinear", "bicubic"]

ONE = 1 << 11  # a weight of 1 in OpenCV's fixed-point arithmetic (INTER_RESIZE_COEF_BITS)
_WORD = 4  # bytes
_LINES = 32
_KEPT = 256  # axes whose places and weights are kept
SHARPNESS = -0.75  # OpenCV's parameter of the cubic kernel of Keys 1981
_REACH = {"bilinear": (0, 1), "bicubic": (-1, 2)}  # the neighbors of a place that are mixed, from the one before it


class Axis(NamedTuple):
    """The part of one axis of a resized image that is wanted."""

    source: int  # pixels of the whole source along it
    resized: int  # pixels that the whole source is brought to
    start: int  # the first that is wanted
    length: int  # how many are

    @property
    def step(self) -> float:
        """Source pixels to one of the result; by way of its inverse, as OpenCV rounds it."""
        return 1 / (self.resized / self.source)

    def corners(self) -> npt.NDArray[np.int64]:
        """The source pixel that holds the corner of each wanted pixel: OpenCV's INTER_NEAREST."""
        corners = np.floor(np.arange(self.start, self.start + self.length) * self.step).astype(np.int64)
        return np.asarray(np.minimum(corners, self.source - 1))

    def middles(self) -> npt.NDArray[np.float64]:
        """Where the middle of each wanted pixel lies between the middles of source pixels."""
        return (np.arange(self.start, self.start + self.length, dtype=np.float64) + 0.5) * self.step - 0.5


def needed(rows: Axis, columns: Axis) -> Region:
    """The source pixels that a part depends on, whatever the interpolation."""
    (top, bottom), (left, right) = (_reached(axis) for axis in (rows, columns))
    return Region(left, top, right, bottom)


def resized_image(pixels: Pixels, region: Region, rows: Axis, columns: Axis, interpolation: Interpolation) -> Pixels:
    """(R, S, 3) uint8 part of a resized image, from the (h, w, 3) uint8 pixels of a region that it needs."""
    if _is_same(rows) and _is_same(columns):
        return _taken(pixels, region, rows.corners(), columns.corners())
    if interpolation == "bicubic":
        mixed = _mixed(pixels, region, rows, columns, "bicubic")
        return np.asarray(np.clip(np.rint(mixed), 0, 255), dtype=np.uint8)
    if all(axis.source == 2 * axis.resized for axis in (rows, columns)):  # there OpenCV takes means instead
        return _means_of_four(pixels, region, rows, columns)
    return _bilinear_fixed_point(pixels, region, rows, columns)


def resized_labels(pixels: Pixels, region: Region, rows: Axis, columns: Axis) -> Pixels:
    """(R, S) part of a resized label map, from the (h, w) numbers of a region that it needs."""
    return _taken(pixels, region, rows.corners(), columns.corners())


def resized_depth(pixels: Pixels, region: Region, rows: Axis, columns: Axis) -> Pixels:
    """(R, S) float32 part of a bilinearly resized depth map, from the (h, w) numbers of a region that it needs."""
    if _is_same(rows) and _is_same(columns):
        return _taken(pixels, region, rows.corners(), columns.corners())
    return np.asarray(_mixed(pixels[..., None], region, rows, columns, "bilinear")[..., 0], dtype=np.float32)


def _is_same(axis: Axis) -> bool:
    return axis.source == axis.resized


def _reached(axis: Axis) -> tuple[int, int]:
    """The first source pixel on which wanted ones depend, and the one behind the last."""
    first, last = np.floor(axis.middles()[[0, -1]]).astype(int)
    low, high = _REACH["bicubic"]
    corner = int(axis.corners()[0])  # in a reduction it lies far before the middle
    return max(min(int(first) + low, corner), 0), min(int(last) + high + 1, axis.source)


def _taken(pixels: Pixels, region: Region, rows: Pixels, columns: Pixels) -> Pixels:
    """The pixels of a region at these rows and columns of the whole source."""
    return np.asarray(pixels[(rows - region.top)[:, None], columns - region.left])


def _means_of_four(pixels: Pixels, region: Region, rows: Axis, columns: Axis) -> Pixels:
    upper, left = (2 * np.arange(axis.start, axis.start + axis.length) for axis in (rows, columns))
    four = [_taken(pixels, region, upper + down, left + right).astype(np.int32) for down in (0, 1) for right in (0, 1)]
    return np.asarray((sum(four) + 2) >> 2, dtype=np.uint8)


def _bilinear_fixed_point(pixels: Pixels, region: Region, rows: Axis, columns: Axis) -> Pixels:
    """Weights are rounded to 11 bits; after the second pass the sum is cut, and only then rounded.

    Pixels are gathered as whole words, and some lines are made at a time, in arrays that stay in the processor's cache.
    The first pass, (p v + q w) >> 4 with v + w = 2048, is 128 p + (q - p) (w >> 4) + ((q - p) (w & 15) >> 4), of which
    every part fits in 16 bits: of those a processor multiplies twice as many at once.
    """
    across, down = _mixing(columns), _mixing(rows)
    words = _words(pixels)
    before, after = across.before - region.left, across.after - region.left
    coarse, fine = (np.repeat(part.astype(np.int16), _WORD) for part in (across.weight >> 4, across.weight & 15))
    above, below = down.before - region.top, down.after - region.top
    upper_weight, lower_weight = (ONE - down.weight)[:, None], down.weight[:, None]
    made = np.empty((rows.length, columns.length * _WORD), np.uint8)
    starts = range(0, rows.length, _LINES)
    most = max(int(below[start : start + _LINES][-1] - above[start]) + 1 for start in starts)
    gathered = np.empty((most, columns.length), np.uint32)
    left, change, mixed = np.empty((3, most, columns.length * _WORD), np.int16)
    upper, lower = np.empty((2, _LINES, columns.length * _WORD), np.int32)
    for start in starts:
        lines = slice(start, min(start + _LINES, rows.length))
        first, end = int(above[start]), int(below[lines][-1]) + 1
        near, here, held = words[first:end], slice(end - first), gathered[: end - first]
        near.take(before, 1, held, "clip")
        left[here] = held.view(np.uint8)
        near.take(after, 1, held, "clip")
        change[here] = held.view(np.uint8)
        _mix_across(left[here], change[here], coarse, fine, mixed[here])
        upper_lines, lower_lines = upper[: lines.stop - start], lower[: lines.stop - start]
        for part, line, weight in ((upper_lines, above, upper_weight), (lower_lines, below, lower_weight)):
            part[...] = mixed.take(line[lines] - first, 0)
            part *= weight[lines]
            part >>= 16
        upper_lines += lower_lines
        upper_lines += 2
        upper_lines >>= 2
        made[lines] = upper_lines
    return made.reshape(rows.length, columns.length, _WORD)[..., :3]


def _mix_across(left: Pixels, right: Pixels, coarse: Pixels, fine: Pixels, mixed: Pixels) -> None:
    """The first pass over some lines; what it is made of is overwritten."""
    right -= left
    np.multiply(right, coarse, mixed)
    right *= fine
    right >>= 4
    mixed += right
    left <<= 7
    mixed += left


class _Mixing(NamedTuple):
    """Which two source pixels each wanted pixel is mixed of."""

    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    weight: npt.NDArray[np.int32]  # of the one after; that of the one before is what is missing to ONE


@lru_cache(_KEPT)
def _mixing(axis: Axis) -> _Mixing:
    """For each wanted pixel, the source pixels around its middle, at the border twice the last one; in float32."""
    middles = axis.middles().astype(np.float32)
    places = np.floor(middles)
    before = places.astype(np.int64)
    weight = np.rint((middles - places) * np.float32(ONE)).astype(np.int32)
    # OpenCV rounds the other weight by itself; the two add up to ONE wherever sizes are below 4096.
    near, next_one = (np.clip(before + step, 0, axis.source - 1) for step in (0, 1))
    return _Mixing(near, next_one, weight)


def _words(pixels: Pixels) -> npt.NDArray[np.uint32]:
    """(h, w) the bytes of each pixel of (h, w, 3) in the order of a word's, and one more whose number says nothing."""
    height, width, _ = pixels.shape
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    words = np.empty((height, width), np.uint32)
    bytes_of = words.view(np.uint8).reshape(height, width, _WORD)
    bytes_of[:, -1, :3] = pixels[:, -1]  # a word that began there would end behind the image
    steps = (pixels.strides[0], 3)
    words[:, :-1] = as_strided(pixels, (height, width - 1, _WORD), (*steps, 1)).view(np.uint32)[..., 0]
    return words


def _mixed(pixels: Pixels, region: Region, rows: Axis, columns: Axis, interpolation: Interpolation) -> Pixels:
    """(R, S, D) float64 sums of the (h, w, D) pixels around each place."""
    mixed = pixels.astype(np.float64)
    for dimension, (axis, origin) in enumerate(((rows, region.top), (columns, region.left))):
        middles = axis.middles()
        before = np.floor(middles).astype(np.int64)
        low, high = _REACH[interpolation]
        steps = np.arange(low, high + 1)
        near = np.clip(before[:, None] + steps, 0, axis.source - 1) - origin  # (length, neighbors)
        weights = _kernel(np.abs(steps - (middles - before)[:, None]), interpolation)
        moved = np.moveaxis(mixed, dimension, 0)
        mixed = np.moveaxis(np.einsum("cn,cn...->c...", weights, moved[near]), 0, dimension)
    return mixed


def _kernel(distance: npt.NDArray[np.float64], interpolation: Interpolation) -> npt.NDArray[np.float64]:
    """The weight of a pixel at this distance."""
    if interpolation == "bilinear":
        return 1 - distance
    a, x = SHARPNESS, distance
    return np.where(x <= 1, ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a)
