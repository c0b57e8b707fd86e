"""How what was made comes into a photo: faded in inside of the edit alone, so that no pixel outside changes.

Shapes: H x W pixels.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

LEVELS = 5
_KERNEL = np.array([1, 4, 6, 4, 1], np.float32) / 16

Array = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def composited(photo: Array, made: Array, masked: Mask, feather: float) -> Array:
    """The photo with what was made inside of the mask, and the photo's own pixels, bit for bit, outside.

    With a feather, what was made is joined to the photo around it by their Laplacian pyramids (Burt and Adelson 1983),
    so that coarse differences fade over longer ways than fine ones; the fading begins at the border of the mask and
    goes inwards. There the photo is a smooth continuation of what is outside: what it shows inside of the mask counts
    nowhere.

    Args:
        photo, made: (H, W, 3) uint8.
        masked: (H, W).
        feather: pixels over which what was made appears; 0 for a hard border. In parts of the mask that are narrower,
            it is as wide as they allow. Borders of the image fade nothing.
    """
    joined = made if feather <= 0 else _faded(photo, made, masked, feather)
    result: Array = np.where(masked[..., None], joined, photo)
    return result


def _faded(photo: Array, made: Array, masked: Mask, feather: float) -> Array:
    if masked.all() or not masked.any():
        return made
    (region,) = ndimage.find_objects(masked.astype(np.uint8))
    room = 4 << LEVELS
    region = tuple(slice(max(side.start - room, 0), side.stop + room) for side in region)
    share = presence(masked[region], feather)[..., None]
    around = _continued(photo[region].astype(np.float32), masked[region])
    levels = min(LEVELS, int(np.log2(max(feather, 1))))  # a coarser one would fade over more than the feather
    blended = _blended(around, made[region].astype(np.float32), share, levels)
    result: Array = made.copy()
    result[region] = np.clip(np.rint(blended), 0, 255)
    return result


def presence(masked: Mask, feather: float) -> Floats:
    """(H, W) how much of what was made shows: 0 outside the mask, rising to 1 over ``feather`` pixels inside.

    Every connected part of the mask has at least one pixel with 1.
    """
    depth = ndimage.distance_transform_edt(masked)
    parts, count = ndimage.label(masked, np.ones((3, 3)))
    deepest = np.concatenate(([1.0], np.atleast_1d(ndimage.maximum(depth, parts, np.arange(1, count + 1)))))
    share: Floats = np.clip(depth / np.minimum(deepest, feather)[parts], 0, 1).astype(np.float32)
    return share


def _continued(photo: Floats, masked: Mask) -> Floats:
    """(H, W, 3): the photo, and below the mask the mean of what is known around, from ever further away."""
    known = (~masked).astype(np.float32)[..., None]
    levels = [(photo * known, known)]
    while max(levels[-1][0].shape[:2]) > 1:
        colors, weights = (_down(each) for each in levels[-1])
        levels.append((colors, weights))
    colors, weights = levels.pop()
    result: Floats = (colors / np.maximum(weights, 1e-6)).astype(np.float32)
    for colors, weights in reversed(levels):
        result = (colors + (1 - weights) * _up(result, colors.shape)).astype(np.float32)
    return result


def _blended(photo: Floats, made: Floats, share: Floats, levels: int) -> Floats:
    """(H, W, 3) joined level by level."""
    joined = []
    for _ in range(levels):
        if min(photo.shape[:2]) < 2:
            break
        smaller = [_down(each) for each in (photo, made, share)]
        details = [each - _up(small, each.shape) for each, small in zip((photo, made), smaller, strict=False)]
        joined.append(details[0] + share * (details[1] - details[0]))
        photo, made, share = smaller
    result = photo + share * (made - photo)
    for detail in reversed(joined):
        result = detail + _up(result, detail.shape)
    return result


def _down(x: Floats) -> Floats:
    return _smoothed(x)[::2, ::2]


def _up(x: Floats, shape: tuple[int, ...]) -> Floats:
    spread = np.zeros(shape, np.float32)
    spread[::2, ::2] = x
    return _smoothed(spread) * 4


def _smoothed(x: Floats) -> Floats:
    for axis in (0, 1):
        x = ndimage.correlate1d(x, _KERNEL, axis=axis, mode="mirror")
    return x
