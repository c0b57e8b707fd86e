"""Where windows lie, and which codes can be painted together."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Cell(NamedTuple):
    """A code of a grid."""

    row: int
    column: int


def window_start(position: int, length: int, window: int) -> int:
    """Where the prior's window begins along one axis of the grid, so that it predicts ``position``.

    The window centres on the position and stops at the edges: Esser et al. 2021, figure 3.

    Args:
        position: row or column to predict, in codes, 0 <= position < length.
        length: rows or columns of the whole grid, in codes; 64 for 1024 pixels at factor 16.
        window: rows or columns the prior was trained on, in codes.

    Raises:
        ValueError: the grid is smaller than the window, or the position is outside of it.
    """
    return strided_start(position, length, window, 1)


def strided_start(position: int, length: int, window: int, stride: int) -> int:
    """The same where ``stride`` neighbours, counted from 0, share one window that centres on all of them.

    Raises:
        ValueError: as ``window_start``, or the stride is wider than the window.
    """
    if length < window:
        raise ValueError(
            f"the prior needs grids of at least {window} codes a side, got {length}; "
            "ask for a larger picture, or train a prior with a smaller window"
        )
    if not 0 <= position < length:
        raise ValueError(f"position must be in [0, {length}), got {position}")
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be from 1 to the window's {window} codes, got {stride}")
    first = position - position % stride
    return min(max(first - (window - stride + 1) // 2, 0), length - window)


def serial(order: Sequence[Cell], known: Callable[[Cell], bool]) -> Iterator[list[Cell]]:
    """The unknown cells one by one."""
    for cell in order:
        if not known(cell):
            yield [cell]


def wavefront(
    size: tuple[int, int], rows_at_once: int, reach: Callable[[int], int], known: Callable[[Cell], bool]
) -> Iterator[list[Cell]]:
    """The unknown cells in few steps, each step a list of cells of different rows whose past is complete.

    Args:
        size: rows and columns of the grid.
        rows_at_once: a row waits until the row this far above it is complete.
        reach: the last column of the rows above that a column depends on; it never falls from column to column.
        known: whether a cell is given.
    """
    rows, columns = size
    done = [0] * rows  # complete columns of each row

    def skip(row: int) -> None:
        while done[row] < columns and known(Cell(row, done[row])):
            done[row] += 1

    for row in range(rows):
        skip(row)
    top = 0  # the first row that is not complete
    while True:
        while top < rows and done[top] == columns:
            top += 1
        if top == rows:
            return
        ready, above = [], columns  # columns that are complete in every row above
        for row in range(top, min(top + rows_at_once, rows)):
            if done[row] < columns and above > reach(done[row]):
                ready.append(Cell(row, done[row]))
            above = min(above, done[row])
        yield ready
        for cell in ready:
            done[cell.row] += 1
            skip(cell.row)
