"""Which numbers a sample may hold: none beyond the tables of the model that reads it.

Shapes: H and W the sides of a map, (h, w) a grid of codes.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from ...models.conditions.code_map import LABELS, majority_label
from .decode import Pixels

NO_LABEL = (255, 65535)  # the marks of places without a label in 8 and 16 bits, where they are no class of a model

Check = Callable[[Pixels], None]
"""Takes the numbers of one sample's field; raises OutOfRangeError."""


class OutOfRangeError(ValueError):
    """A sample holds a number that the model knows nothing of."""


def only(known: range) -> Check:
    """A check that all numbers are among these, as of classes and codes."""
    return partial(_check_known, known, ())


def only_labels(labels: int) -> Check:
    """A check of maps for a model of so many labels; ``NO_LABEL`` may stand anywhere and counts nowhere."""
    return partial(_check_known, range(labels), NO_LABEL)


def only_cells(known: range, cells: tuple[int, int]) -> Check:
    """A check of maps that become the commonest label of each cell of a grid (h, w)."""
    return partial(_check_cells, known, cells)


def only_bytes() -> Check:
    """A check of maps whose commonest labels are to be found: below 256."""
    return only(range(LABELS))


def checked(known: Mapping[str, range]) -> dict[str, Check]:
    """A check for each field."""
    return {field: only(values) for field, values in known.items()}


def _check_known(known: range, marks: tuple[int, ...], numbers: Pixels) -> None:
    if not numbers.size or known.start <= numbers.min() <= numbers.max() < known.stop:
        return
    wrong = (numbers < known.start) | (numbers >= known.stop)
    for mark in marks:
        wrong &= numbers != mark
    if wrong.any():
        marked = f"; {' and '.join(map(str, marks))} mark no label" if marks else ""
        raise OutOfRangeError(
            f"it holds {numbers[wrong].flat[0]}, and the model knows {known.start} to {known.stop - 1}{marked}"
        )


def _check_cells(known: range, cells: tuple[int, int], labels: Pixels) -> None:
    only_bytes()(labels)
    _check_known(known, (), majority_label(torch.from_numpy(labels.astype(np.int64)), *cells).numpy())
