"""A window prior on grids of any size: the window follows the cell, and caches live while it stands still.

Every window that is being sampled has a lane. A cell's lane, and so the row of every matrix product that its numbers
pass through, depends on the image's number and the row alone; forwards have fixed shapes with empty lanes padded.
So a cell's logits have the same bits whatever is sampled beside it, wherever kernels are deterministic.

Shapes: B images, (H, W) their grids, (h, w) the window, n cells, K codes, L lanes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...conditions import Condition, CropLocation, Fields
from ..decoding import Cell, DecodingRequest, Logits, strided_start
from .step_graph import StepGraph

Array = npt.NDArray[np.int64]


class LaneCache(Protocol):
    """What a prior remembers of the windows in some lanes."""

    spare: int
    """The lane for windows that are read in vain."""


class WindowPrior(Protocol):
    """What the decoder needs of a prior; a ``GPT`` and a ``PixelSNAIL`` have it. Caches and weights are its own."""

    codes: int
    window: tuple[int, int]
    condition: Condition
    cells: Tensor
    """(N,) the cells of the window in the order of prediction."""
    config: Any

    def rows_at_once(self, columns: int) -> int:
        """How many rows can be sampled staggered."""

    def step_weights(self) -> Any:
        """What every step multiplies by, prepared once for all caches."""

    def cache(self, lanes: int, weights: Any) -> LaneCache:
        """An empty cache for ``lanes`` windows."""

    def prefill(
        self, codes: Tensor, held: Tensor, fields: Fields, dropped: Tensor, cache: Any, lanes: Tensor
    ) -> Tensor:
        """Read the first codes of some windows and predict the next."""

    def step(self, codes: Tensor, cache: Any, live: Tensor) -> Tensor:
        """Read one more code of every lane and predict the next."""


class Job(NamedTuple):
    """One cell to predict, in every image."""

    number: int  # of the cell among those asked for
    slot: int  # which of the rows that are sampled at once is the cell's
    top: int  # of the window
    left: int
    codes: int  # how many codes of the window come before it


class Held(NamedTuple):
    """What the lanes of a row have read: the same in every image."""

    top: int  # of the window
    left: int
    begun: int  # codes that were read at once when the lanes took the window
    codes: int  # codes read by now
    warm: bool = True  # False: the lanes took note of them alone, and their caches are still to be filled


class Lanes(NamedTuple):
    """Rows of one forward, in which some jobs of some images lie."""

    forward: int
    chosen: Array  # (m,) numbers of a result: a job's, and an image's in it
    rows: Array  # (m,) where they lie in the forward


class WindowDecoder:
    """Samples with a ``GPT`` or a ``PixelSNAIL``; see ``Decoder``."""

    reads_given = False

    def __init__(self, prior: WindowPrior, request: DecodingRequest) -> None:
        self.prior = prior
        self.request = request
        self.cells: list[int] = prior.cells.tolist()
        raster = self.cells == sorted(self.cells)
        (height, width), (rows, columns) = request.size, prior.window
        if not raster and request.size != prior.window:
            raise ValueError(
                f"a prior with the order {prior.config.order.kind!r} samples grids of its window {prior.window} alone, "
                f"got {request.size}; train one with the order 'raster' for other sizes"
            )
        # Where the window of every row and column begins; grids below the window are refused.
        stride, late = request.config.stride, request.config.scene_windows
        self.tops = [strided_start(row, height, rows, 1, late) for row in range(height)]
        self.lefts = [strided_start(column, width, columns, stride, late) for column in range(width)]
        self.ranks = prior.cells.argsort().tolist()  # by cell of the window: its number in the order of prediction
        self.order: Sequence[Cell] = (
            [Cell(row, column) for row in range(height) for column in range(width)]
            if raster
            else [Cell(*divmod(cell, columns)) for cell in self.cells]
        )
        self.rows_at_once = min(prior.rows_at_once(width), request.config.lanes)
        self.inner = (
            rows // 2 * columns + (columns - request.config.stride + 1) // 2
        )  # codes before a cell amid the grid
        # Below this row windows hold more codes than amid the grid: rows of both kinds would need two forwards a step.
        first = height - rows + rows // 2 + 1
        self.barriers = frozenset([first] if self.rows_at_once > 1 else [])
        self.numbers = np.array(request.image_ids)
        self.branches = 2 if request.guided else 1
        self.weights = prior.step_weights()
        # By forward; the second half of the lanes has no condition.
        self.caches: dict[int, LaneCache] = {}
        self.graphs: dict[int, StepGraph] = {}
        self.held: dict[int, Held] = {}  # by a row's slot

    def reach(self, column: int) -> int:
        """The right edge of the column's window."""
        return self.lefts[column] + self.prior.window[1] - 1

    def prepare(self, codes: Tensor, cells: Sequence[Cell]) -> Iterator[None]:
        """What lanes took note of alone."""
        for job in (self._job(0, cell) for cell in cells):
            if self._reads_on(job) and not self.held[job.slot].warm:
                self._warm(job.slot, codes)
                yield

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """See ``Decoder``."""
        jobs = [self._job(number, cell) for number, cell in enumerate(cells)]
        results = self._room(codes, len(cells))
        self._run(jobs, codes, results)
        return Logits(results[0], results[1] if self.request.guided else None)

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Note what each lane would have read; it reads that when its window is needed once more."""
        for job in (self._job(0, cell) for cell in cells):
            begun = self.held[job.slot].begun if self._reads_on(job) else job.codes
            self.held[job.slot] = Held(job.top, job.left, begun, job.codes, warm=False)

    def _room(self, codes: Tensor, cells: int) -> Tensor:
        """(branches, n, K) for logits."""
        places = cells * len(self.numbers)
        return codes.new_zeros(self.branches, places, self.prior.codes, dtype=torch.float32)

    def _job(self, number: int, cell: Cell) -> Job:
        top, left = self.tops[cell.row], self.lefts[cell.column]
        inside = (cell.row - top) * self.prior.window[1] + cell.column - left
        return Job(number, cell.row % self.rows_at_once, top, left, self.ranks[inside])

    def _run(self, jobs: Sequence[Job], codes: Tensor, results: Tensor) -> None:
        """Prefill the lanes whose window is new, let the others read on."""
        together: dict[int, list[Job]] = defaultdict(list)
        running = []
        for job in jobs:
            if self._reads_on(job):
                running.append(job)
            else:
                together[self._padded(job.codes)].append(job)
        for length, group in together.items():
            self._prefill(length, group, codes, results)
        while running:
            self._step(running, codes, results)
            running = [job for job in running if self.held[job.slot].codes < job.codes]

    def _reads_on(self, job: Job) -> bool:
        """Whether the lanes go on in the window that they hold; else they take the window anew."""
        held = self.held.get(job.slot)
        same = held is not None and (held.top, held.left) == (job.top, job.left)
        return held is not None and same and 0 < job.codes - held.codes <= self.prior.window[1]

    def _padded(self, count: int) -> int:
        """How many codes are read at once for ``count``: a few lengths, one of them that of cells amid the grid.

        Rows that are sampled together share one, so that a step has one forward that reads windows anew.
        """
        rows, columns = self.prior.window
        part = max(rows // 4, 1) * columns if self.rows_at_once == 1 else rows * columns
        return min(self.inner - (self.inner - count) // part * part, rows * columns - 1)

    def _warm(self, slot: int, codes: Tensor) -> None:
        """Read what lanes only took note of, as they would have read it: the first codes at once, then one by one."""
        top, left, begun, end, _ = self.held.pop(slot)
        unused = self._room(codes, 1)
        for count in range(begun, end + 1):
            self._run([Job(0, slot, top, left, count)], codes, unused)

    def _lanes(self, jobs: Sequence[Job], size: int) -> Iterator[Lanes]:
        """The forwards of ``size`` rows that the jobs need."""
        turns = np.array([job.slot for job in jobs])
        forwards, rows = np.divmod((self.numbers * self.rows_at_once + turns[:, None]).ravel(), size)
        for forward in np.unique(forwards):
            chosen = (forwards == forward).nonzero()[0]
            yield Lanes(int(forward), chosen, rows[chosen])

    def _cache(self, number: int) -> LaneCache:
        if number not in self.caches:
            prior, cache = self.prior, self.prior.cache(self.branches * self.request.config.lanes, self.weights)
            self.caches[number] = cache
            self.graphs[number] = StepGraph(lambda codes, live: prior.step(codes, cache, live))
        return self.caches[number]

    def _prefill(self, length: int, jobs: Sequence[Job], codes: Tensor, results: Tensor) -> None:
        """Windows of one padded length; the empty rows of a forward repeat its first window."""
        images, size, lanes = len(self.numbers), self.request.config.prefill, self.request.config.lanes
        whole = [
            self.prior.condition.cut(self.request.fields, CropLocation(job.top, job.left, self.request.size))
            for job in jobs
        ]
        fields = {name: torch.cat([part[name] for part in whole]) for name in whole[0]}
        windows = np.array([(job.top, job.left, job.codes, job.number) for job in jobs]).repeat(images, axis=0).T
        cells = self.prior.cells[:length]
        rows, columns = cells // self.prior.window[1], cells % self.prior.window[1]
        for forward, chosen, place in self._lanes(jobs, size):
            number, first = divmod(forward * size, lanes)
            cache = self._cache(number)
            of_row = np.full(size, chosen[0])
            of_row[place] = chosen
            target = np.full((self.branches, size), cache.spare)
            target[:, place] = first + place + np.arange(self.branches)[:, None] * lanes
            table = np.stack((of_row, of_row % images, *windows[:3, of_row]))
            row, image, top, left, held = self._sent(table)
            seen = codes[image[:, None], top[:, None] + rows, left[:, None] + columns]
            seen = seen.where(torch.arange(length, device=held.device) < held[:, None], 0)
            dropped = torch.arange(self.branches, device=held.device).repeat_interleave(size) == 1
            given = {name: self._twice(field[row]) for name, field in fields.items()}
            logits = self.prior.prefill(
                self._twice(seen), self._twice(held), given, dropped, cache, self._sent(target.ravel())
            )
            found = windows[3, chosen] * images + chosen % images
            self._keep(results, logits, np.stack((place, found)))
        for job in jobs:
            self.held[job.slot] = Held(job.top, job.left, job.codes, job.codes)

    def _step(self, jobs: Sequence[Job], codes: Tensor, results: Tensor) -> None:
        """One more code for every lane of the jobs; the others idle."""
        images, lanes = len(self.numbers), self.request.config.lanes
        read = [self.cells[self.held[job.slot].codes] for job in jobs]
        rows, columns, numbers = np.array([
            (job.top + cell // self.prior.window[1], job.left + cell % self.prior.window[1], job.number)
            for job, cell in zip(jobs, read, strict=True)
        ]).repeat(images, axis=0).T  # fmt: skip
        for forward, chosen, place in self._lanes(jobs, lanes):
            table = np.zeros((3, lanes), dtype=np.int64)
            table[:, place] = chosen % images, rows[chosen], columns[chosen]
            image, row, column = self._sent(table)
            live = np.zeros(lanes, dtype=bool)
            live[place] = True
            left = codes[image, row, column].clamp(min=0)  # idle lanes may meet a code that is still unknown
            logits = self.graphs[forward](self._twice(left), self._sent(np.tile(live, self.branches)))
            self._keep(results, logits, np.stack((place, numbers[chosen] * images + chosen % images)))
        for job in jobs:
            held = self.held[job.slot]
            self.held[job.slot] = held._replace(codes=held.codes + 1)

    def _keep(self, results: Tensor, logits: Tensor, rows: Array) -> None:
        """Write a forward's logits to the results; ``rows`` are (2, m): those of the forward, those of the results."""
        source, target = self._sent(rows)
        results[:, target] = logits.view(self.branches, -1, logits.shape[1])[:, source].float()

    def _twice(self, rows: Tensor) -> Tensor:
        """Once more for the half without the condition."""
        return torch.cat([rows] * self.branches) if self.branches > 1 else rows

    def _sent(self, numbers: Array | npt.NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(numbers).to(self.prior.cells.device, non_blocking=True)
