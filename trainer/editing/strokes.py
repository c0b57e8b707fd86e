"""What was drawn over a label map with a brush, read back as labels: exact, also where a browser smooths its edges.

Shapes: a map of H x W pixels.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..images.decode import Pixels

AGAIN = (255, 255, 255)  # the color of places that are made anew as what they are; no label has it
_OPAQUE = 255
_HALF = 128  # alpha from which an edge counts as drawn
_EDGE = 2  # pixels over which a brush's edge is smoothed

Colors = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Strokes(NamedTuple):
    """A map as it is to become."""

    labels: Pixels  # (H, W)
    again: Mask  # (H, W), true where something new is to be made of the label that is there


def read_strokes(layers: list[Colors], labels: Pixels, colors: Colors) -> Strokes:
    """The map below some layers, and what was drawn in them, the later above the earlier.

    A pixel counts as drawn where it is at least half opaque. A brush's edge is a mixture, whose color may be that of
    a third label. So the labels of squares of 2 x 2 pixels of one color are sure, and an edge, which is thinner, has
    the label of the nearest of these.

    Args:
        layers: (H, W, 4) uint8 each, transparent where nothing was drawn.
        labels: (H, W) before.
        colors: (K, 3) uint8, of the labels from 0 on.

    Raises:
        ValueError: a layer has another size than the map.
    """
    labels, again = labels.copy(), np.zeros(labels.shape, np.bool_)
    for layer in layers:
        if layer.shape[:2] != labels.shape:
            raise ValueError(
                f"what was drawn has {layer.shape[0]} x {layer.shape[1]} pixels and the map {labels.shape[0]} x "
                f"{labels.shape[1]}; open the photo again, and leave its size as it is"
            )
        drawn = layer[..., 3] >= _HALF
        if drawn.any():
            numbers = _numbers(layer, drawn, np.vstack((colors, AGAIN)))
            again = np.where(drawn, numbers == len(colors), again)
            labels = np.where(drawn & ~again, numbers, labels).astype(labels.dtype)
    return Strokes(labels, again)


def _numbers(layer: Colors, drawn: Mask, palette: Colors) -> Pixels:
    """(H, W) which color of the palette was meant, where something was drawn."""
    keys, place = np.unique(_key(palette), return_index=True)
    key = _key(layer[..., :3])
    nearest = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    sure = _squares(np.where((layer[..., 3] == _OPAQUE) & (keys[nearest] == key), key, -1))
    numbers: Pixels = place[nearest]
    unsure = drawn & ~sure
    if sure.any():
        away, (rows, columns) = ndimage.distance_transform_edt(~sure, return_indices=True)
        numbers = numbers[rows, columns]
        unsure &= away > _EDGE
    apart = layer[unsure][:, None, :3].astype(np.int64) - palette[None]  # a dot that is all edge
    numbers[unsure] = (apart**2).sum(-1).argmin(1)
    return numbers


def _squares(key: Pixels) -> Mask:
    """(H, W) true for all pixels of squares of 2 x 2 with one number that is not below 0."""
    corners = key[:-1, :-1], key[1:, :-1], key[:-1, 1:], key[1:, 1:]
    square = np.logical_and.reduce([(corner == corners[0]) & (corner >= 0) for corner in corners])
    inside = np.zeros(key.shape, np.bool_)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            inside[rows, columns] |= square
    return inside


def _key(colors: Colors) -> Pixels:
    """(...) one number for each color of (..., 3)."""
    key: Pixels = colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return key
