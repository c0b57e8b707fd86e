"""Edges after Canny 1986: in the arithmetic of OpenCV 4 (``cv2.Canny``, aperture 3), equal to it to the bit; and as the
published loader finds them, by scikit-image's ``canny`` of a smoothed image.

Shapes: H rows and W columns of the image, C channels.
"""

import numpy as np
import numpy.typing as npt

from .decode import Pixels

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
_GRAY = (0.2125, 0.7154, 0.0721)  # scikit-image's weights of red, green and blue
_SIGMA, _LOW, _HIGH = 2.0, 0.1, 0.2  # of the published loader, for images in [-1, 1]
_REACH = 4  # deviations of the smoothing filter that are computed
_BITS = 15  # of the fixed-point tangent
_TANGENT = round(np.tan(np.pi / 8) * (1 << _BITS))  # of 22.5 degrees; that of 67.5 is larger by 2 exactly


def canny(image: Pixels, low: float = 100, high: float = 200, euclidean: bool = False) -> npt.NDArray[np.bool_]:
    """(H, W) which pixels are edges of an (H, W) or (H, W, C) uint8 image.

    Of several channels each pixel takes the one with the strongest gradient, the first of equals.

    Args:
        image: to find edges in.
        low: gradients above it are edges where they hang together with a stronger one.
        high: gradients above it are edges.
        euclidean: measures gradients by the root of dx^2 + dy^2, else by \\|dx\\| + \\|dy\\|, OpenCV's default.
    """
    low, high = sorted((low, high))
    across, down, strength = _gradient(image, euclidean)
    if euclidean:
        low, high = (min(32767.0, limit) ** 2 if limit > 0 else limit for limit in (low, high))
    else:
        low, high = np.floor(low), np.floor(high)
    ridge = (strength > low) & _is_ridge(across, down, strength)
    return connected(ridge & (strength > high), ridge)


def published_edges(image: Pixels) -> npt.NDArray[np.bool_]:
    """(H, W) the edges of an (H, W, 3) uint8 image as taming-transformers' ``ImageNetEdges`` finds them.

    That is ``skimage.feature.canny(rgb2gray(image / 127.5 - 1), sigma=2)``. Computed in float64 as there; a gradient
    that lies at a threshold to the last bits may fall on its other side.
    """
    gray = (image / 127.5 - 1) @ np.array(_GRAY)
    smooth = _smoothed(gray) / (_smoothed(np.ones_like(gray)) + np.finfo(np.float64).eps)
    padded = np.pad(smooth, 1, "symmetric")
    falls, turns = padded[2:] - padded[:-2], padded[:, 2:] - padded[:, :-2]
    down = falls[:, :-2] + 2 * falls[:, 1:-1] + falls[:, 2:]
    across = turns[:-2] + 2 * turns[1:-1] + turns[2:]
    strength = np.sqrt(down * down + across * across)
    ridge = (strength >= _LOW) & _is_ridge_between(across, down, strength)
    ridge[[0, -1]] = ridge[:, [0, -1]] = False
    return connected(ridge & (strength >= _HIGH), ridge)


def _smoothed(gray: Reals) -> Reals:
    """(H, W) by a Gaussian along both axes, zeros lying around the image."""
    reach = int(_REACH * _SIGMA + 0.5)
    weights = np.exp(-0.5 / _SIGMA**2 * np.arange(-reach, reach + 1) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(gray, [(reach, reach) if each == axis else (0, 0) for each in (0, 1)])
        gray = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis) @ weights
    return gray


def connected(strong: npt.NDArray[np.bool_], weak: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(H, W) the strong places, and the weak ones that hang together with one over any of their eight neighbors."""
    kept, open_ = np.pad(strong, 1), np.pad(weak, 1)
    step = kept.shape[1]
    around = np.array([row * step + column for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column])
    kept_flat, open_flat = kept.ravel(), open_.ravel()
    front = np.flatnonzero(kept_flat)
    while len(front):
        near = (front[:, None] + around).ravel()
        front = np.unique(near[open_flat[near] & ~kept_flat[near]])
        kept_flat[front] = True
    return np.asarray(kept[1:-1, 1:-1])


def _gradient(image: Pixels, euclidean: bool) -> tuple[Numbers, Numbers, Numbers]:
    """(H, W) Sobel derivatives across and down, and their strength, of the channel that is strongest at each pixel."""
    channels = image[..., None] if image.ndim == 2 else image
    padded = np.pad(channels.astype(np.int64), ((1, 1), (1, 1), (0, 0)), "edge")
    smooth_down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = smooth_down[:, 2:] - smooth_down[:, :-2]
    down = smooth_across[2:] - smooth_across[:-2]
    strength = across**2 + down**2 if euclidean else abs(across) + abs(down)
    strongest = strength.argmax(2)[..., None]  # the first of equals
    chosen = [np.take_along_axis(numbers, strongest, 2)[..., 0] for numbers in (across, down, strength)]
    return chosen[0], chosen[1], chosen[2]


def _is_ridge(across: Numbers, down: Numbers, strength: Numbers) -> npt.NDArray[np.bool_]:
    """(H, W) where no neighbor in the direction of the gradient is stronger; behind the border there is none."""
    padded = np.pad(strength, 1)
    height, width = strength.shape

    def neighbor(row: int, column: int) -> Numbers:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    x, y = abs(across), abs(down) << _BITS
    flat = y < x * _TANGENT
    steep = y > x * (_TANGENT + (2 << _BITS))
    falling = (across < 0) != (down < 0)
    horizontal = (strength > neighbor(0, -1)) & (strength >= neighbor(0, 1))
    vertical = (strength > neighbor(-1, 0)) & (strength >= neighbor(1, 0))
    along = (strength > neighbor(-1, -1)) & (strength > neighbor(1, 1))
    against = (strength > neighbor(-1, 1)) & (strength > neighbor(1, -1))
    return np.where(flat, horizontal, np.where(steep, vertical, np.where(falling, against, along)))


def _is_ridge_between(across: Reals, down: Reals, strength: Reals) -> npt.NDArray[np.bool_]:
    """(H, W) where the strength along the gradient, mixed from two neighbors each way, is larger on neither side."""
    padded = np.pad(strength, 1)
    height, width = strength.shape

    def neighbor(row: int, column: int) -> Reals:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    x, y = abs(across), abs(down)
    steep = y > x
    share = np.divide(np.where(steep, x, y), np.where(steep, y, x), where=(x > 0) | (y > 0), out=np.zeros_like(x))
    together = ((down >= 0) & (across >= 0)) | ((down <= 0) & (across <= 0))
    ridge = np.ones(strength.shape, bool)
    for side in (1, -1):  # of the gradient and against it; rows and columns grow together, or one falls
        diagonal = np.where(together, neighbor(side, side), neighbor(-side, side))
        vertical = np.where(together, neighbor(side, 0), neighbor(-side, 0))
        straight = np.where(steep, vertical, neighbor(0, side))
        ridge &= diagonal * share + straight * (1 - share) <= strength
    return ridge
