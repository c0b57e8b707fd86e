"""Cutting a box out of an image and bringing it to the size of a sample."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from .decode import Pixels
from .geometry import Crop, Region

Box = tuple[float, float, float, float]


def region_of(crop: Crop, height: int, width: int) -> Region:
    """The source pixels that a crop needs; one more on each side where it is not whole, as in a map of another size."""
    if all(edge == int(edge) for edge in crop[:4]):
        return Region(*(int(edge) for edge in crop[:4]))
    return Region(
        max(math.floor(crop.left - 0.5), 0),
        max(math.floor(crop.top - 0.5), 0),
        min(math.ceil(crop.right + 0.5), width),
        min(math.ceil(crop.bottom + 0.5), height),
    )


def scaled(crop: Crop, factor: float) -> Crop:
    """The same part of an image in pixels of another size of it, such as a label map's."""
    return crop._replace(
        left=crop.left * factor, top=crop.top * factor, right=crop.right * factor, bottom=crop.bottom * factor
    )


def antialiased(pixels: Pixels, size: tuple[int, int], box: Box | None = None) -> Pixels:
    """(h, w, 3) pixels at (height, width) = ``size``, with a Lanczos filter as wide as the reduction needs.

    Args:
        pixels: to be resampled.
        size: of the result.
        box: (left, top, right, bottom) of what it shall show, in fractions of ``pixels`` too; None for all.
    """
    if box is None and pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS, box))


def decoder_shrink(scale: float) -> int:
    """How often a decoder may halve an image that is to be reduced ``scale`` times: at least twice is left to us.

    A decoder drops high frequencies block by block, which is no antialiasing; what is left hides that.
    """
    return next((shrink for shrink in (8, 4, 2) if scale >= 2 * shrink), 1)


def nearest_points(pixels: Pixels, region: Region, crop: Crop, size: tuple[int, int]) -> Pixels:
    """(h, w) numbers of a region, taken at the middles of the output's pixels: labels are never mixed."""
    if region.height == crop.height == size[0] and region.width == crop.width == size[1]:
        return pixels
    rows = _middles(crop.top - region.top, crop.height / size[0], size[0], pixels.shape[0])
    columns = _middles(crop.left - region.left, crop.width / size[1], size[1], pixels.shape[1])
    return np.asarray(pixels[rows[:, None], columns[None, :]])


def _middles(start: float, step: float, count: int, length: int) -> npt.NDArray[np.int64]:
    """The source pixel that holds the middle of each output pixel along one axis."""
    middles = np.floor(start + (np.arange(count) + 0.5) * step)
    return np.asarray(np.clip(middles, 0, length - 1), dtype=np.int64)
