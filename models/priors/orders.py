"""In which order a prior reads and writes the codes of its window (Esser et al. 2021, appendix F).

An order is a permutation ``cells`` of shape (N,), N = rows * columns: ``cells[t]`` is the raster number of the cell
that is predicted at step t.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..bounds import Natural, Seed, Share, check_ranges

OrderKind = Literal[
    "raster",
    "spiral_in",
    "spiral_out",
    "z_curve",
    "subsample",
    "alternate",
    "random",
    "taming_spiral_in",
    "taming_spiral_out",
    "taming_random",
    "list",
]


@dataclass(frozen=True)
class OrderConfig:
    """A fixed order; only ``raster`` can slide over grids larger than the window.

    The kinds ``taming_*`` are those of the published code, whose spirals run the other way round, from the lower right
    corner upwards, and whose random order numpy draws; its other orders are the ones of equal names here.
    """

    kind: OrderKind = "raster"
    seed: Seed = 1  # of the kinds random and taming_random
    cells: tuple[Natural, ...] = ()  # of the kind list: the raster number of the cell at every step

    def __post_init__(self) -> None:
        problems = []
        if (self.kind == "list") != bool(self.cells):
            problems.append(f"cells lists all cells for the kind list, and is empty for others, here {self.kind}")
        elif sorted(self.cells) != list(range(len(self.cells))):
            problems.append(f"cells must name each of 0 to {len(self.cells) - 1} once")
        if self.kind == "taming_random" and self.seed >= 2**32:
            problems.append(f"seed must be below 2**32 for taming_random, got {self.seed}")
        check_ranges(self, *problems)

    def build(self, window: tuple[int, int]) -> Tensor:
        """The (N,) int64 raster numbers of the window's cells, in the order of prediction; on the CPU.

        Raises:
            ValueError: the list is of another number of cells.
        """
        rows, columns = window
        if self.kind == "list":
            if len(self.cells) != rows * columns:
                raise ValueError(
                    f"model.order.cells must name all {rows * columns} cells of the window, got {len(self.cells)}"
                )
            return torch.tensor(self.cells, device="cpu")
        if self.kind == "random":
            return torch.randperm(rows * columns, generator=torch.Generator("cpu").manual_seed(self.seed), device="cpu")
        if self.kind == "taming_random":  # the legacy generator: its numbers are the same in every version of numpy
            drawn = np.random.RandomState(self.seed).permutation(rows * columns)
            return torch.tensor(drawn, device="cpu")
        cells = _ORDERS[self.kind](rows, columns)
        return torch.tensor([row * columns + column for row, column in cells], device="cpu")


@dataclass(frozen=True)
class AnnealingConfig:
    """Random orders that turn into the fixed one during training: RAR, Yu et al. 2024, section 3.2.

    The chance of a random order falls linearly from 1 at ``start`` to 0 at ``end``, both shares of the training.
    """

    start: Share = 0.5
    end: Share = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                "annealing needs 0 <= start <= end <= 1, shares of the training, "
                f"got start {self.start} and end {self.end}"
            )
        check_ranges(self)

    def chance(self, progress: float) -> float:
        """The chance that a sample is read in a random order, ``progress`` in [0, 1] through the training."""
        if progress < self.start:
            return 1.0
        if progress >= self.end:
            return 0.0
        return (self.end - progress) / (self.end - self.start)


Cells = list[tuple[int, int]]


def _raster(rows: int, columns: int) -> Cells:
    return [(row, column) for row in range(rows) for column in range(columns)]


def _alternate(rows: int, columns: int) -> Cells:
    """Every second row runs from right to left."""
    return [(row, column if row % 2 == 0 else columns - 1 - column) for row, column in _raster(rows, columns)]


def _spiral_in(rows: int, columns: int) -> Cells:
    """Clockwise from the top left corner to the center: peel the upper row, turn the rest a quarter, again."""
    rest = [[(row, column) for column in range(columns)] for row in range(rows)]
    cells: Cells = []
    while rest:
        cells += rest[0]
        rest = [list(line) for line in zip(*rest[1:], strict=True)][::-1]
    return cells


def _spiral_out(rows: int, columns: int) -> Cells:
    return _spiral_in(rows, columns)[::-1]


def _taming_spiral_in(rows: int, columns: int) -> Cells:
    """Counterclockwise from the lower right corner upwards: the other spiral, mirrored at the rising diagonal."""
    return [(rows - 1 - column, columns - 1 - row) for row, column in _spiral_in(columns, rows)]


def _taming_spiral_out(rows: int, columns: int) -> Cells:
    return _taming_spiral_in(rows, columns)[::-1]


def _z_curve(rows: int, columns: int) -> Cells:
    """By the Morton number: the bits of row and column interleaved, the row's first."""
    return sorted(_raster(rows, columns), key=lambda cell: _morton(*cell))


def _morton(row: int, column: int) -> int:
    number = 0
    for bit in range(max(row, column).bit_length()):
        number |= (row >> bit & 1) << (2 * bit + 1) | (column >> bit & 1) << (2 * bit)
    return number


def _subsample(rows: int, columns: int) -> Cells:
    """Coarse to fine: even rows and columns first, each quarter in the same manner."""

    def place(cell: tuple[int, int]) -> list[int]:
        row, column = cell
        bits = range(max(rows, columns).bit_length())
        return [(row >> bit & 1) << 1 | (column >> bit & 1) for bit in bits]

    return sorted(_raster(rows, columns), key=place)


_ORDERS = {
    "raster": _raster,
    "alternate": _alternate,
    "spiral_in": _spiral_in,
    "spiral_out": _spiral_out,
    "taming_spiral_in": _taming_spiral_in,
    "taming_spiral_out": _taming_spiral_out,
    "z_curve": _z_curve,
    "subsample": _subsample,
}
