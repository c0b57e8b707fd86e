"""Images, label maps and depths brought to a shortest side, once and for all their uses."""

import numpy as np
from PIL import Image

from .decode import Pixels
from .geometry import Crop, Region
from .resize import nearest_points


def reduced_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with a shortest side of ``side`` pixels; as it was where that is no larger, or ``side`` is 0."""
    shortest = min(height, width)
    if not side or shortest <= side:
        return height, width
    longest = (max(height, width) * side + shortest // 2) // shortest
    return (side, longest) if height <= width else (longest, side)


def scaled_size(shape: tuple[int, int], before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    """The size of a map of its own (height, width), once its image has gone from one size to another."""
    height, width = (
        max(1, (length * new + old // 2) // old) for length, old, new in zip(shape, before, after, strict=True)
    )
    return height, width


def reduced_labels(labels: Pixels, size: tuple[int, int]) -> Pixels:
    """(h, w) labels, each that of the pixel in the middle, so that none is mixed: as Pillow's ``NEAREST``."""
    height, width = labels.shape
    return nearest_points(labels, Region(0, 0, width, height), Crop(0, 0, width, height), size)


def reduced_depth(depth: Pixels, size: tuple[int, int]) -> Pixels:
    """(h, w) depths in the type that they had, by Pillow's antialiasing bilinear filter in float32.

    All its weights are positive, so that no depth comes out that lies beyond those that went in.
    """
    made = np.asarray(Image.fromarray(depth.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))
    return np.rint(made).astype(depth.dtype) if depth.dtype.kind in "ui" else made
