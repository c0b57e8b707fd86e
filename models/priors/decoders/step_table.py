"""The plan of a sample as tables on the device: what every lane of one forward after another reads and writes.

The device counts the forwards itself, so that a captured step finds its own row of the table, and the host has nothing
to send or to compute between two steps.

Shapes: F forwards, n rows of each, m entries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.int64]


class Entries(NamedTuple):
    """What some rows of some forwards have to do, an entry a row."""

    forwards: Array  # (m,) numbers that stand in the order of the forwards; they may leave some out
    rows: Array  # (m,) of the forward
    numbers: Array  # (fields, m)

    def chosen(self, which: npt.NDArray[np.bool_]) -> "Entries":
        """Some of them."""
        return Entries(self.forwards[which], self.rows[which], self.numbers[:, which])

    def used(self, lanes: int | None = None) -> slice:
        """From the first to the last lane that has any; ``lanes`` where the rows are those of several halves."""
        rows = self.rows if lanes is None else self.rows % lanes
        return slice(int(rows.min()), int(rows.max()) + 1)


class LaneMap:
    """Which lane of which forward every row of every image has: the lane by the image's number and the row alone.

    Images of one number are in different forwards.

    Args:
        lane_ids: numbers of the B images, ``lane_numbers`` of a request.
        rows_at_once: how many rows of an image are sampled at once.
        lanes: of a forward.

    Attributes:
        forwards: how many forwards there are.
    """

    def __init__(self, lane_ids: Sequence[int], rows_at_once: int, lanes: int) -> None:
        every = np.array(lane_ids, dtype=np.int64)[:, None] * rows_at_once + np.arange(rows_at_once)
        forwards, self._lanes = np.divmod(every, lanes)  # (B, rows_at_once)
        before = [list(lane_ids[:place]).count(number) for place, number in enumerate(lane_ids)]
        forwards += np.array(before, dtype=np.int64)[:, None] * (forwards.max() + 1)
        numbers = np.unique(forwards)
        self._forwards, self.forwards = np.searchsorted(numbers, forwards), len(numbers)

    def of(self, slots: Array) -> tuple[Array, Array]:
        """Forwards, from 0 on, and lanes, (m, B) each, of m rows by their place among those sampled at once."""
        return self._forwards.T[slots], self._lanes.T[slots]


class StepTable:
    """The rows of one kind of forward, and which one is next.

    Args:
        entries: at least one.
        size: n.
        idle: (fields,) what rows without an entry read.
        device: where the table is to be.

    Attributes:
        forwards: (F,) the forwards that there are, in their order.
    """

    def __init__(self, entries: Entries, size: int, idle: Array, device: torch.device) -> None:
        self.forwards, place = np.unique(entries.forwards, return_inverse=True)
        table = np.empty((len(self.forwards), len(idle), size), dtype=np.int64)
        table[:] = idle[:, None]
        table[place, :, entries.rows] = entries.numbers.T
        self._table = torch.from_numpy(table).to(device)
        self._next = torch.zeros(1, dtype=torch.int64, device=device)

    def take(self) -> Tensor:
        """(fields, n) of the next forward."""
        row = self._table.index_select(0, self._next)[0]
        self._next += 1
        return row
