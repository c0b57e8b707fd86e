"""Which codes can be sampled together: every step of a sample, worked out before the first one."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from ..priors.decoding import Cells


def serial(order: Sequence[tuple[int, int]], known: npt.NDArray[np.bool_]) -> list[Cells]:
    """The unknown cells one by one; ``known`` is (H, W)."""
    cells = np.array(order, dtype=np.int64)
    return list(cells[~known[tuple(cells.T)], None])


def wavefront(
    known: npt.NDArray[np.bool_], rows_at_once: int, reach: npt.NDArray[np.int64], barriers: Collection[int] = ()
) -> list[Cells]:
    """The unknown cells in few steps, each step cells of different rows whose past is complete, from top to bottom.

    A cell is sampled in the first step that can: 1 + the latest of the cell to its left, of everything above it as far
    as it reaches, and of the rows that must be complete before its own begins. Along a row that is a running maximum.

    Args:
        known: (H, W) whether a cell is given.
        rows_at_once: a row waits until the row this far above it, and all before that one, are complete.
        reach: (W,) the last column of the rows above that a column depends on; it never falls from column to column.
        barriers: rows that wait until all above them are complete.
    """
    rows, columns = known.shape
    when = np.zeros((rows, columns), dtype=np.int64)  # the step after which all up to a cell is there
    above = np.zeros(columns, dtype=np.int64)  # the latest of all rows so far, column by column
    complete = np.zeros(rows, dtype=np.int64)  # when a row and all before it are complete
    for row in range(rows):
        behind = 1 if row in barriers else rows_at_once
        waited = complete[row - behind] if row >= behind else 0
        count = np.cumsum(~known[row])
        begun = np.where(known[row], 0, np.maximum(above[reach], waited) + 1 - count)
        when[row] = np.maximum.accumulate(np.maximum(begun, 0)) + count
        above = np.maximum(above, when[row])
        complete[row] = above[-1]
    cells = np.argwhere(~known)
    steps = when[~known]
    ordered = cells[np.argsort(steps, kind="stable")]
    return np.split(ordered, np.cumsum(np.bincount(steps)[1:])[:-1]) if len(cells) else []
