"""A neighborhood prior on grids of any size: one position's forward a code, with a rolling cache of a few rows.

Every row that is being sampled has a lane: ``window_decoder`` says why a cell's numbers do not depend on its company.
Shapes: B images, (H, W) their grids, n lanes, K codes, C channels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...conditions import Condition, CropLocation, Fields
from ..decoding import Cell, Cells, DecodingRequest, Draw, Schedule, window_start
from .rolling_cache import LanePositions, RollingCache
from .step_graph import StepGraph
from .step_table import Entries, LaneMap, StepTable


class RollingPrior(Protocol):
    """What the decoder needs of a prior; a ``NeighborhoodPrior`` has it."""

    codes: int
    window: tuple[int, int]
    condition: Condition
    edge: nn.Parameter
    """(C,) what stands to the left of a row."""
    config: Any

    def rows_at_once(self, columns: int) -> int:
        """How many rows can be sampled staggered."""

    def cache(self, images: int, columns: int, rows: int) -> RollingCache:
        """An empty cache for images of ``columns`` codes a row."""

    def local(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """(B, h, w, C): what the condition says at every cell of a window."""

    def step(self, left: Tensor, local: Tensor, aim: LanePositions, cache: RollingCache) -> Tensor:
        """Read one position of every lane and predict its code."""


class RollingDecoder:
    """Samples with a ``NeighborhoodPrior``; see ``Decoder``."""

    reads_given = True
    barriers: frozenset[int] = frozenset()

    def __init__(self, prior: RollingPrior, request: DecodingRequest) -> None:
        self.prior = prior
        self.request = request
        height, width = request.size
        for length, window in zip(request.size, prior.window, strict=True):
            window_start(0, length, window)  # refuses grids below the window, whose conditions cannot be cut
        self.order: Sequence[Cell] = [Cell(row, column) for row in range(height) for column in range(width)]
        self.rows_at_once = min(prior.rows_at_once(width), request.config.lanes)
        # Beside the rows being sampled, the one above them is kept for the reading position at its end.
        # Guided images are there twice: the second half of every forward goes without the condition.
        self.branches = 2 if request.guided else 1
        self.lanes = LaneMap(request.lane_numbers, self.rows_at_once, request.config.lanes)
        self.cache = prior.cache(self.branches * len(request.image_ids), width, self.rows_at_once + 1)
        local = torch.cat([self._local(branch == 1) for branch in range(self.branches)])
        self.local = torch.cat((local, torch.zeros_like(local[:1])))  # the spare image's

    def reach(self, column: int) -> int:
        """The neighborhood's right edge."""
        right: int = min(column + self.prior.config.columns_beside, self.request.size[1] - 1)
        return right

    def run(self, codes: Tensor, schedule: Schedule, draw: Draw) -> Iterator[int]:
        """See ``Decoder``; every cell must be in a step, with all before it known. What was passed is read again."""
        readings, complete = self._readings(schedule)
        if not readings:
            return
        entries, lanes = self._entries(readings, schedule), self.request.config.lanes
        idle = np.array([self.cache.spare, 0, 0, len(codes) - 1, len(codes) - 1])
        table, used = StepTable(entries, self.branches * lanes, idle, codes.device), entries.used(lanes)

        def step() -> None:
            images, rows, columns, left, places = table.take()
            read = codes.index_select(0, left).clamp(min=0)  # idle lanes may meet a code that is still unknown
            aim = LanePositions(images, rows, columns)
            logits = self.prior.step(read, self.local[aim], aim, self.cache)
            draw(logits.view(self.branches, lanes, -1)[:, used], places[used])

        graph, counts = StepGraph(step, codes.device), np.bincount(table.forwards // self.lanes.forwards)
        for steps, count in zip(complete, counts.tolist(), strict=True):
            for _ in range(count):
                graph()
            yield steps

    def _readings(self, schedule: Schedule) -> tuple[list[Cells], list[int]]:
        """What is read one after the other, and how many steps are complete then.

        Before the row below looks at it, the last position of a row, which only reads, is read on its own.
        """
        width, beside = self.request.size[1], self.prior.config.columns_beside
        ended, readings, complete = 0, [], []
        for number, cells in enumerate(schedule.steps):
            looking = cells[cells[:, 1] + beside >= width, 0]
            for row in range(ended + 1, int(looking.max(initial=0)) + 1):
                readings.append(np.array([[row - 1, width]]))
                complete.append(number)
                ended = row
            readings.append(cells)
            complete.append(number + 1)
        return readings, complete

    def _entries(self, readings: Sequence[Cells], schedule: Schedule) -> Entries:
        """What every lane of every forward reads: image, row, column, the code to the left; and what it writes."""
        (height, width), lanes = self.request.size, self.request.config.lanes
        count = len(self.request.image_ids)
        reading = np.repeat(np.arange(len(readings)), [len(cells) for cells in readings])[:, None]
        rows, columns = np.concatenate(readings).T[:, :, None]
        images, spare = np.arange(count), schedule.drawn.size
        forwards, slots = self.lanes.of(rows[:, 0] % self.rows_at_once)
        written = np.pad(schedule.addresses(), ((0, 0), (0, 0), (0, 1)), constant_values=spare)[images, rows, columns]
        left = np.where(columns > 0, (images * height + rows) * width + columns - 1, spare)
        entries = [
            Entries(
                (reading * self.lanes.forwards + forwards).ravel(),
                (slots + branch * lanes).ravel(),
                np.stack([
                    part.ravel()
                    for part in np.broadcast_arrays(images + branch * count, rows, columns, left, written)
                ]),
            )
            for branch in range(self.branches)
        ]  # fmt: skip
        return Entries(*(np.concatenate(parts, axis=-1) for parts in zip(*entries, strict=True)))

    def _local(self, dropped: bool) -> Tensor:
        """(B, H, W + 1, C): what the condition says everywhere, put together from windows that tile the grids."""
        (height, width), (rows, columns) = self.request.size, self.prior.window
        batch = len(self.request.image_ids)
        absent = torch.full((batch,), dropped, device=self.prior.edge.device)
        whole = self.prior.edge.new_zeros(batch, height, width + 1, self.prior.config.width)
        # Windows that start a window apart, and stop at the edges.
        for top in (min(row, height - rows) for row in range(0, height, rows)):
            for left in (min(column, width - columns) for column in range(0, width, columns)):
                cut = self.prior.condition.cut(self.request.fields, CropLocation(top, left, self.request.size))
                whole[:, top : top + rows, left : left + columns] = self.prior.local(cut, batch, absent)
        whole[:, :, width] = whole[:, :, width - 1]
        return whole
