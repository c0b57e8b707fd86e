"""Where windows lie, and which codes can be sampled together."""

from collections.abc import Callable, Iterator, Sequence

from ..priors.decoding import Cell


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
