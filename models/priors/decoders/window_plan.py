"""What the lanes of rows do in every step of a sample with sliding windows, worked out before the first one.

A row takes a window anew, which reads all codes before the cell at once, or reads on in the window that it holds. All
images do the same, so that nothing here is done for each of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..decoding import Schedule
from .step_table import Array


class WindowGeometry(NamedTuple):
    """Where windows lie, and in which order their codes are read."""

    size: tuple[int, int]  # (H, W) of the grid
    window: tuple[int, int]  # (h, w)
    tops: Sequence[int]  # of the window of each row
    lefts: Sequence[int]  # and of each column
    cells: Sequence[int]  # of the window, in the order of prediction
    rows_at_once: int


class WindowPlan(NamedTuple):
    """Actions, numbered from 0 on in their order. A slot is a row's place among those that are sampled at once."""

    begun: Array  # (m, 5) windows read anew: action, slot, top, left, and how many codes come before the cell
    read: Array  # (m, 3) codes read on: action, slot, and the raster number of the code in the grid
    drawn: Array  # (m, 3) codes drawn: action, slot, raster number
    pauses: list[tuple[int, int]]  # after how many actions how many steps are complete


class Held(NamedTuple):
    """What the lanes of a row have read: the same in every image."""

    top: int  # of the window
    left: int
    begun: int  # codes that were read at once when the lanes took the window
    codes: int  # codes read by now
    warm: bool = True  # False: the lanes took note of them alone, and their caches are still to be filled


class Job(NamedTuple):
    """A cell to predict, in every image."""

    slot: int
    place: int  # its raster number in the grid
    top: int  # of the window
    left: int
    codes: int  # how many codes of the window come before it


class Planner:
    """Plays a sample with what each row's lanes hold."""

    def __init__(self, geometry: WindowGeometry) -> None:
        self.geometry = geometry
        self.ranks = np.argsort(geometry.cells).tolist()  # by cell of the window: its number in the order of prediction
        self.held: dict[int, Held] = {}  # by a row's slot
        self.action = 0
        self.begun: list[tuple[int, ...]] = []
        self.read: list[tuple[int, ...]] = []
        self.drawn: list[tuple[int, ...]] = []

    def plan(self, schedule: Schedule) -> WindowPlan:
        """All of it; called once."""
        pauses = []
        for number, cells in enumerate(schedule.steps):
            jobs = [self._job(row, column) for row, column in cells.tolist()]
            passed = schedule.passed[tuple(cells.T)].tolist()
            fresh = [job for job, is_passed in zip(jobs, passed, strict=True) if not is_passed]
            for job, is_passed in zip(jobs, passed, strict=True):
                if is_passed:  # read when the window is needed once more
                    begun = self.held[job.slot].begun if self._reads_on(job) else job.codes
                    self.held[job.slot] = Held(job.top, job.left, begun, job.codes, warm=False)
            for job in fresh:
                if self._reads_on(job) and not self.held[job.slot].warm:
                    self._warm(job.slot)
                    pauses.append((self.action, number))
            if fresh:
                self._go_to(fresh)
                self.drawn += [(self.action, job.slot, job.place) for job in fresh]
                self.action += 1
            pauses.append((self.action, number + 1))
        return WindowPlan(_table(self.begun, 5), _table(self.read, 3), _table(self.drawn, 3), pauses)

    def _job(self, row: int, column: int) -> Job:
        geometry = self.geometry
        top, left = geometry.tops[row], geometry.lefts[column]
        inside = (row - top) * geometry.window[1] + column - left
        place = row * geometry.size[1] + column
        return Job(row % geometry.rows_at_once, place, top, left, self.ranks[inside])

    def _reads_on(self, job: Job) -> bool:
        """Whether the lanes go on in the window that they hold; else they take the window anew."""
        held = self.held.get(job.slot)
        same = held is not None and (held.top, held.left) == (job.top, job.left)
        return held is not None and same and 0 < job.codes - held.codes <= self.geometry.window[1]

    def _go_to(self, jobs: Sequence[Job]) -> None:
        """Let lanes read on or take their window anew, until each has read all before its cell."""
        left = {job: job.codes - self.held[job.slot].codes for job in jobs if self._reads_on(job)}
        # All end together, as every action leaves in all lanes what they predict.
        for to_go in range(max(left.values(), default=0), 0, -1):
            for job, codes in left.items():
                if codes >= to_go:
                    self._note_reading(job, job.codes - to_go)
            self.action += 1
        anew = [job for job in jobs if job not in left]
        self.begun += [(self.action, job.slot, job.top, job.left, job.codes) for job in anew]
        self.action += bool(anew)
        for job in jobs:
            begun = self.held[job.slot].begun if job in left else job.codes
            self.held[job.slot] = Held(job.top, job.left, begun, job.codes)

    def _note_reading(self, job: Job, number: int) -> None:
        """The code of a number in its window is read."""
        row, column = divmod(self.geometry.cells[number], self.geometry.window[1])
        self.read.append((self.action, job.slot, (job.top + row) * self.geometry.size[1] + job.left + column))

    def _warm(self, slot: int) -> None:
        """Read what lanes only took note of, as they would have read it: the first codes at once, then one by one."""
        top, left, begun, end, _ = self.held.pop(slot)
        for codes in range(begun, end + 1):
            self._go_to([Job(slot, 0, top, left, codes)])


def _table(rows: Sequence[tuple[int, ...]], width: int) -> Array:
    return np.array(rows, dtype=np.int64).reshape(-1, width)
