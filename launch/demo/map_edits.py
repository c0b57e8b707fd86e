"""Edits of a landscape by its map: what becomes something else, of those that such a landscape bears.

Maps are (H, W) uint8, places in LABELS.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .scene import LABELS

Labels = npt.NDArray[np.uint8]

BECOMES = (
    ("mountains", "sky"),
    ("water", "meadow"),
    ("sand", "water"),
    ("forest", "mountains"),
    ("meadow", "water"),
    ("water", "sand"),
    ("mountains", "forest"),
)
SMALLEST, LARGEST = 0.06, 0.4  # share of the pixels that an edit changes
HILL_HEIGHT, HILL_WIDTH = 0.75, 0.35  # shares of the sky's height, and of the width


class MapEdit(NamedTuple):
    """What a map becomes."""

    name: str
    labels: Labels


def map_edits(labels: Labels) -> list[MapEdit]:
    """The edits of a map: all of a label becomes another, or a hill stands before the sky."""
    edits = [
        MapEdit(f"{old} become {new}", np.where(labels == _number(old), _number(new), labels).astype(np.uint8))
        for old, new in BECOMES
    ]
    edits.append(MapEdit("a hill in the sky", _with_hill(labels)))
    return [edit for edit in edits if SMALLEST <= (edit.labels != labels).mean() <= LARGEST]


def _with_hill(labels: Labels) -> Labels:
    """Mountains in the shape of a bell where there is sky, in the middle third with the most of it."""
    height, width = labels.shape
    sky = labels == _number("sky")
    foot = int(np.flatnonzero(sky.any(axis=1)).max(initial=0)) + 1
    middle = max((1 / 3, 1 / 2, 2 / 3), key=lambda share: sky[:, round(share * width)].sum()) * width
    bell = np.exp(-(((np.arange(width) - middle) / (HILL_WIDTH * width / 2)) ** 2))
    below = np.arange(height)[:, None] >= foot * (1 - HILL_HEIGHT * bell)
    made: Labels = np.where(sky & below, _number("mountains"), labels).astype(np.uint8)
    return made


def _number(label: str) -> int:
    return LABELS.index(label)
