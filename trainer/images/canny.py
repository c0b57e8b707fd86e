"""Edges after Canny 1986 in the arithmetic of OpenCV 4 (``cv2.Canny``, aperture 3): equal to it to the bit.

Shapes: H rows and W columns of the image, C channels.
"""

import numpy as np
import numpy.typing as npt

from .decode import Pixels

Numbers = npt.NDArray[np.int64]
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
