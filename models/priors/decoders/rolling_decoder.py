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
from ..decoding import Cell, DecodingRequest, Logits, window_start
from .rolling_cache import LanePositions, RollingCache
from .step_graph import StepGraph


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
        self.cache = prior.cache(self.branches * len(request.image_ids), width, self.rows_at_once + 1)
        local = torch.cat([self._local(branch == 1) for branch in range(self.branches)])
        self.local = torch.cat((local, torch.zeros_like(local[:1])))  # the spare image's
        cache, table = self.cache, self.local
        self.graph = StepGraph(lambda left, *aim: prior.step(left, table[aim], LanePositions(*aim), cache))
        self.numbers = np.array(request.image_ids)
        self.ended = 0  # rows whose last position, which only reads, has been read

    def reach(self, column: int) -> int:
        """The neighborhood's right edge."""
        right: int = min(column + self.prior.config.columns_beside, self.request.size[1] - 1)
        return right

    def prepare(self, codes: Tensor, cells: Sequence[Cell]) -> Iterator[None]:
        """The last position of a row, which only reads, before the row below looks at it."""
        width = self.request.size[1]
        for row, column in sorted(cells):
            if row > self.ended and column + self.prior.config.columns_beside >= width:
                self._read(codes, [Cell(row - 1, width)])
                self.ended = row
                yield

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """See ``Decoder``; every cell must be asked for once, with all before it known."""
        results = self._read(codes, cells)
        return Logits(results[0], results[1] if self.request.guided else None)

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Read the cells again: everything that follows may look at them."""
        for _ in self.prepare(codes, cells):
            pass
        self.logits(codes, cells)

    def _read(self, codes: Tensor, cells: Sequence[Cell]) -> Tensor:
        """Write positions to the cache; their (branches, n, K) logits cell by cell, and image by image in one."""
        count, lanes = len(self.numbers), self.request.config.lanes
        rows, columns = np.repeat(np.array(cells).T, count, axis=1)
        images = np.tile(np.arange(count), len(cells))
        every_lane = np.tile(self.numbers, len(cells)) * self.rows_at_once + rows % self.rows_at_once
        forwards, slots = np.divmod(every_lane, lanes)
        results = codes.new_zeros((self.branches, len(rows), self.prior.codes), dtype=torch.float32)
        for forward in np.unique(forwards):
            chosen = (forwards == forward).nonzero()[0]
            table = np.zeros((3, self.branches, lanes), dtype=np.int64)
            table[0] = self.cache.spare
            for branch in range(self.branches):
                table[:, branch, slots[chosen]] = images[chosen] + branch * count, rows[chosen], columns[chosen]
            wanted = np.stack((slots[chosen], chosen))
            self._forward(codes, torch.from_numpy(table), torch.from_numpy(wanted), results)
        return results

    def _forward(self, codes: Tensor, table: Tensor, wanted: Tensor, results: Tensor) -> None:
        """One position of every lane; those of the spare image read in vain."""
        aim = LanePositions(*table.flatten(1).to(codes.device, non_blocking=True))
        slots, rows = wanted.to(codes.device, non_blocking=True)
        # Idle lanes may meet a code that is still unknown.
        left = codes[aim.images % len(codes), aim.rows, (aim.columns - 1).clamp(min=0)].clamp(min=0)
        logits = self.graph(left, *aim)
        results[:, rows] = logits.view(self.branches, -1, logits.shape[1])[:, slots].float()

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
