"""Resizing in the arithmetic of OpenCV (``cv2.resize``), of which any part of the result can be had alone.

OpenCV itself makes bilinear images where it is installed and all of the source is at hand, some six times as fast.

Bilinear uint8 images and nearest labels are equal to OpenCV's to the bit. Bicubic images are computed in float64: the
x86 builds of OpenCV leave them to Intel's IPP, whose float32 rounds values near a half otherwise (42 of 5 million
values of noise at random sizes, by one gray level: opencv-python-headless 4.11, 2026-11-28). So are depths, where IPP's
own error is 1e-5 of a range of 2.

Shapes: h rows and w columns of the pixels at hand, R rows and S columns of the part that is wanted, D channels.
"""

import math
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from .decode import Pixels
from .geometry import Region

Interpolation = Literal["bilinear", "bicubic"]

ONE = 1 << 11  # a weight of 1 in OpenCV's fixed-point arithmetic (INTER_RESIZE_COEF_BITS)
_WORD = 4  # bytes
_LINES = 32
_LONGEST = 4095  # pixels of a side up to which OpenCV's weights are ours
_WASTE = 4  # pixels that OpenCV may make for one that is wanted
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
    if region == Region(0, 0, columns.source, rows.source) and is_better_whole(rows, columns, interpolation):
        whole = _opencv().resize(np.ascontiguousarray(pixels), (columns.resized, rows.resized))  # bilinear
        return np.asarray(whole[tuple(slice(axis.start, axis.start + axis.length) for axis in (rows, columns))])
    return _bilinear_fixed_point(pixels, region, rows, columns)


def is_better_whole(rows: Axis, columns: Axis, interpolation: Interpolation) -> bool:
    """Whether a part of an image that is decoded whole in any case is best made of all its pixels, by OpenCV."""
    few = rows.resized * columns.resized <= _WASTE * rows.length * columns.length
    short = max(rows.source, columns.source) <= _LONGEST
    return few and short and interpolation == "bilinear" and _opencv() is not None


def resized_labels(pixels: Pixels, region: Region, rows: Axis, columns: Axis) -> Pixels:
    """(R, S) part of a resized label map, from the (h, w) numbers of a region that it needs."""
    return _taken(pixels, region, rows.corners(), columns.corners())


def resized_depth(pixels: Pixels, region: Region, rows: Axis, columns: Axis) -> Pixels:
    """(R, S) float32 part of a bilinearly resized depth map, from the (h, w) numbers of a region that it needs."""
    if _is_same(rows) and _is_same(columns):
        return _taken(pixels, region, rows.corners(), columns.corners())
    return np.asarray(_mixed(pixels[..., None], region, rows, columns, "bilinear")[..., 0], dtype=np.float32)


@cache
def _opencv() -> Any:
    """OpenCV, if it is installed and resizes as we do to the bit: builds for other processors might round otherwise."""
    try:
        opencv = import_module("cv2")
    except ImportError:  # an extra of the package
        return None
    opencv.setNumThreads(0)  # cores are shared out among processes that read, and a pool of threads dies in a fork
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    region = Region(0, 0, 83, 61)
    for height, width in ((43, 59), (97, 132), (20, 27)):
        rows, columns = Axis(61, height, 0, height), Axis(83, width, 0, width)
        ours = _bilinear_fixed_point(pixels, region, rows, columns)
        if not np.array_equal(opencv.resize(pixels, (width, height)), ours):
            return None
    return opencv


def _is_same(axis: Axis) -> bool:
    return axis.source == axis.resized


def _reached(axis: Axis) -> tuple[int, int]:
    """The first source pixel on which wanted ones depend, and the one behind the last."""
    low, high = _REACH["bicubic"]
    first, last = axis._replace(length=1), axis._replace(start=axis.start + axis.length - 1, length=1)
    before, end = (math.floor(float(each.middles()[0])) for each in (first, last))
    corner = int(first.corners()[0])  # in a reduction it lies far before the middle
    return max(min(before + low, corner), 0), min(end + high + 1, axis.source)


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
    words = _Words(pixels)
    before, after = across.before - region.left, across.after - region.left
    coarse, fine = (np.repeat(part.astype(np.int16), _WORD) for part in (across.weight >> 4, across.weight & 15))
    above, below = down.before - region.top, down.after - region.top
    upper_weight, lower_weight = (ONE - down.weight)[:, None], down.weight[:, None]
    made = np.empty((rows.length, columns.length * _WORD), np.uint8)
    starts = range(0, rows.length, _LINES)
    most = max(int(below[start : start + _LINES][-1] - above[start]) + 1 for start in starts)
    gathered = np.empty((most, columns.length), np.uint32)
    left, change, mixed = np.empty((3, most, columns.length * _WORD), np.int16)
    taken = np.empty((_LINES, columns.length * _WORD), np.int16)
    upper, lower = np.empty((2, *taken.shape), np.int32)
    for start in starts:
        lines = slice(start, min(start + _LINES, rows.length))
        first, end = int(above[start]), int(below[lines][-1]) + 1
        near, here, held = words.of(first, end), slice(end - first), gathered[: end - first]
        near.take(before, 1, held, "clip")
        left[here] = held.view(np.uint8)
        near.take(after, 1, held, "clip")
        change[here] = held.view(np.uint8)
        _mix_across(left[here], change[here], coarse, fine, mixed[here])
        here = slice(lines.stop - start)
        sums = upper[here]
        for part, line, weight in ((sums, above, upper_weight), (lower[here], below, lower_weight)):
            part[...] = mixed.take(line[lines] - first, 0, taken[here], "clip")
            part *= weight[lines]
            part >>= 16
        sums += lower[here]
        sums += 2
        sums >>= 2
        made[lines] = sums
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


class _Words:
    """Lines of (h, w, 3) pixels as (h, w) words: the bytes of each, and one more whose number says nothing.

    They are made a few lines at a time in one array, which stays in the processor's cache.
    """

    def __init__(self, pixels: Pixels) -> None:
        if pixels.strides[1:] != (3, 1):
            pixels = np.ascontiguousarray(pixels)
        height, width, _ = pixels.shape
        steps = (pixels.strides[0], 3)
        self._pixels = pixels
        # A word that began at the last pixel of a line would end behind it, and that of the image's behind the image.
        self._but_last = as_strided(pixels, (height, width - 1, _WORD), (*steps, 1)).view(np.uint32)[..., 0]
        self._made = np.empty((0, width), np.uint32)

    def of(self, first: int, end: int) -> npt.NDArray[np.uint32]:
        """(end - first, w) the words of some lines; those of the call before are overwritten."""
        if len(self._made) < end - first:
            self._made = np.empty((end - first, self._made.shape[1]), np.uint32)
        words = self._made[: end - first]
        words[:, :-1] = self._but_last[first:end]
        words[:, -1:].view(np.uint8)[:, :3] = self._pixels[first:end, -1]
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
