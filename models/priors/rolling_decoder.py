"""A neighborhood prior on grids of any size: one position's forward a code, with a rolling cache of a few rows.

Every row that is being sampled has a lane: ``window_decoder`` says why a cell's numbers do not depend on its company.
Shapes: B images, (H, W) their grids, n lanes, K codes, C channels.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..conditions import Condition, CropLocation, Fields
from .decoding import Cell, DecodingRequest, Logits, window_start
from .rolling_cache import LanePositions, RollingCache


class RollingPrior(Protocol):
    """What the decoder needs of a prior; a ``NeighborhoodPrior`` has it."""

    codes: int
    window: tuple[int, int]
    condition: Condition
    edge: nn.Parameter
    """(C,) what stands to the left of a row."""
    config: Any

    def cache(self, images: int, columns: int, rows: int) -> RollingCache:
        """An empty cache for images of ``columns`` codes a row."""

    def local(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """(B, h, w, C): what the condition says at every cell of a window."""

    def step(self, left: Tensor, local: Tensor, aim: LanePositions, cache: RollingCache) -> Tensor:
        """Read one position of every lane and predict its code."""


class Job(NamedTuple):
    """One position to read."""

    result: int  # the row of the logits
    slot: int  # the lane of its forward
    image: int  # the row of the batch
    cell: Cell


class RollingDecoder:
    """Samples with a ``NeighborhoodPrior``; see ``Decoder``."""

    reads_given = True

    def __init__(self, prior: RollingPrior, request: DecodingRequest) -> None:
        self.prior = prior
        self.request = request
        height, width = request.size
        for length, window in zip(request.size, prior.window, strict=True):
            window_start(0, length, window)  # refuses grids below the window, whose conditions cannot be cut
        self.order: Sequence[Cell] = [Cell(row, column) for row in range(height) for column in range(width)]
        self.rows_at_once = -(-width // (prior.config.columns_beside + 1))
        # Beside the rows being sampled, the one above them is kept for the reading position at its end.
        branches = 2 if request.guided else 1
        self.caches = [prior.cache(len(request.image_ids), width, self.rows_at_once + 1) for _ in range(branches)]
        self.locals = [self._local(branch == 1) for branch in range(branches)]
        self.ended = 0  # rows whose last position, which only reads, has been read

    def reach(self, column: int) -> int:
        """The neighborhood's right edge."""
        right: int = min(column + self.prior.config.columns_beside, self.request.size[1] - 1)
        return right

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """See ``Decoder``; every cell must be asked for once, with all before it known."""
        width = self.request.size[1]
        for row, column in sorted(cells):
            if row > self.ended and column + self.prior.config.columns_beside >= width:
                self._read(codes, [Cell(row - 1, width)])
                self.ended = row
        results = self._read(codes, cells)
        return Logits(results[0], results[1] if self.request.guided else None)

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Read the cells again: everything that follows may look at them."""
        self.logits(codes, cells)

    def _read(self, codes: Tensor, cells: Sequence[Cell]) -> Tensor:
        """Write positions to the caches; their (branches, n, K) logits cell by cell, and image by image in one."""
        numbers = self.request.image_ids
        shape = (len(self.caches), len(cells) * len(numbers), self.prior.codes)
        results = codes.new_zeros(shape, dtype=torch.float32)
        forwards: dict[int, list[Job]] = defaultdict(list)
        for place, cell in enumerate(cells):
            for image, number in enumerate(numbers):
                lane = number * self.rows_at_once + cell.row % self.rows_at_once
                forward, slot = divmod(lane, self.request.config.lanes)
                forwards[forward].append(Job(place * len(numbers) + image, slot, image, cell))
        for jobs in forwards.values():
            self._forward(codes, jobs, results)
        return results

    def _forward(self, codes: Tensor, jobs: Sequence[Job], results: Tensor) -> None:
        """One position of every job, in lanes of their own; the others read the first position in vain."""
        table = torch.zeros(4, self.request.config.lanes, dtype=torch.int64)
        for _, slot, image, (row, column) in jobs:
            table[:, slot] = torch.tensor([image, row, column, max(column - 1, 0)])
        images, rows, columns, before = table.to(codes.device)
        live = torch.tensor([job.slot for job in jobs], device=codes.device)
        wanted = torch.tensor([job.result for job in jobs], device=codes.device)
        left = codes[images, rows, before].clamp(min=0)  # idle lanes may meet a code that is still unknown
        for branch, (cache, local) in enumerate(zip(self.caches, self.locals, strict=True)):
            logits = self.prior.step(
                left, local[images, rows, columns], LanePositions(images, rows, columns, live), cache
            )
            results[branch, wanted] = logits[live].float()

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
