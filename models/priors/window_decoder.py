"""A window prior on grids of any size: the window follows the cell, and caches live while it stands still.

Every window that is being sampled has a lane. A cell's lane, and so the row of every matrix product that its numbers
pass through, depends on the image's number and the row alone; forwards have fixed shapes with empty lanes padded.
So a cell's logits have the same bits whatever is sampled beside it, wherever kernels are deterministic.

Shapes: B images, (H, W) their grids, (h, w) the window, n cells, K codes, L lanes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..conditions import Condition, CropLocation, Fields
from ..transformer.attention import KeyValueCache
from .decoding import Cell, DecodingRequest, Logits, strided_start


class WindowPrior(Protocol):
    """What the decoder needs of a prior; a ``GPT`` has it."""

    codes: int
    window: tuple[int, int]
    condition: Condition
    cells: Tensor
    """(N,) the cells of the window in the order of prediction."""
    config: Any

    def cache(self, lanes: int) -> KeyValueCache:
        """An empty cache for ``lanes`` windows."""

    def prefill(
        self, codes: Tensor, fields: Fields, dropped: Tensor, cache: KeyValueCache, lanes: Tensor, live: Tensor
    ) -> Tensor:
        """Read the first codes of some windows and predict the next."""

    def step(self, codes: Tensor, cache: KeyValueCache, lanes: Tensor) -> Tensor:
        """Read one more code of every lane and predict the next."""


class Window(NamedTuple):
    """A window of one image."""

    image: int  # the row of the batch
    top: int
    left: int


class Job(NamedTuple):
    """One cell to predict."""

    result: int  # the row of the logits
    window: Window
    codes: int  # how many codes of the window come before it
    lane: int


class Held(NamedTuple):
    """What a lane has read."""

    window: Window
    begun: int  # codes that were read at once when the lane took the window
    codes: int  # codes read by now
    warm: bool = True  # False: the lane took note of them alone, and its cache is still to be filled


@dataclass
class Bank:
    """Lanes that share their forwards."""

    caches: list[KeyValueCache]  # one with the condition, one more without it for guidance
    held: dict[int, Held] = field(default_factory=dict)  # by lane


class WindowDecoder:
    """Samples with a ``GPT``; see ``Decoder``."""

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
        strided_start(0, height, rows, 1)  # refuses grids below the window
        strided_start(0, width, columns, request.config.stride)
        self.order: Sequence[Cell] = (
            [Cell(row, column) for row in range(height) for column in range(width)]
            if raster
            else [Cell(*divmod(cell, columns)) for cell in self.cells]
        )
        self.rows_at_once = -(-width // columns) if raster else 1
        self.banks: dict[int, Bank] = {}

    def reach(self, column: int) -> int:
        """The right edge of the column's window."""
        return self._left(column) + self.prior.window[1] - 1

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """See ``Decoder``."""
        results = self._room(codes, len(cells) * len(self.request.image_ids))
        for bank, jobs in self._jobs(cells):
            cold = [job.lane for job in jobs if self._reads_on(bank, job) and not bank.held[job.lane].warm]
            for lane in cold:
                self._warm(bank, lane, codes)
            self._run(bank, jobs, codes, results)
        return Logits(results[0], results[1] if self.request.guided else None)

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Note what each lane would have read; it reads that when its window is needed once more."""
        for bank, jobs in self._jobs(cells):
            for job in jobs:
                begun = bank.held[job.lane].begun if self._reads_on(bank, job) else job.codes
                bank.held[job.lane] = Held(job.window, begun, job.codes, warm=False)

    def _room(self, codes: Tensor, places: int) -> Tensor:
        """(branches, n, K) for logits."""
        branches = 2 if self.request.guided else 1
        return codes.new_zeros(branches, places, self.prior.codes, dtype=torch.float32)

    def _jobs(self, cells: Sequence[Cell]) -> list[tuple[Bank, list[Job]]]:
        """What is to be done for each bank."""
        images = len(self.request.image_ids)
        banks: dict[int, list[Job]] = defaultdict(list)
        for row, cell in enumerate(cells):
            for image in range(images):
                job = self._job(cell, image, row * images + image)
                banks[job.lane // self.request.config.lanes].append(job)
        return [(self._bank(number), jobs) for number, jobs in banks.items()]

    def _left(self, column: int) -> int:
        return strided_start(column, self.request.size[1], self.prior.window[1], self.request.config.stride)

    def _job(self, cell: Cell, image: int, result: int) -> Job:
        rows, columns = self.prior.window
        top, left = strided_start(cell.row, self.request.size[0], rows, 1), self._left(cell.column)
        inside = (cell.row - top) * columns + cell.column - left
        lane = self.request.image_ids[image] * self.rows_at_once + cell.row % self.rows_at_once
        return Job(result, Window(image, top, left), self.cells.index(inside), lane)

    def _bank(self, number: int) -> Bank:
        if number not in self.banks:
            branches = 2 if self.request.guided else 1
            self.banks[number] = Bank([self.prior.cache(self.request.config.lanes) for _ in range(branches)])
        return self.banks[number]

    def _run(self, bank: Bank, jobs: Sequence[Job], codes: Tensor, results: Tensor) -> None:
        """Prefill the lanes whose window is new, let the others read on."""
        together: dict[tuple[int, int], list[Job]] = defaultdict(list)
        running = []
        for job in jobs:
            if self._reads_on(bank, job):
                running.append(job)
            else:
                together[self._slot(job) // self.request.config.prefill, job.codes].append(job)
        for group in together.values():
            self._prefill(bank, group, codes, results)
        while running:
            self._step(bank, running, codes, results)
            running = [job for job in running if bank.held[job.lane].codes < job.codes]

    def _reads_on(self, bank: Bank, job: Job) -> bool:
        """Whether the lane goes on in the window that it holds; else it takes the window anew."""
        held = bank.held.get(job.lane)
        return held is not None and held.window == job.window and 0 < job.codes - held.codes <= self.prior.window[1]

    def _warm(self, bank: Bank, lane: int, codes: Tensor) -> None:
        """Read what a lane only took note of, as it would have read it: its first codes at once, then one by one."""
        window, begun, end, _ = bank.held.pop(lane)
        unused = self._room(codes, 1)
        for count in range(begun, end + 1):
            self._run(bank, [Job(0, window, count, lane)], codes, unused)

    def _prefill(self, bank: Bank, jobs: Sequence[Job], codes: Tensor, results: Tensor) -> None:
        """Windows of one length in one forward; its empty rows repeat the first window."""
        rows = [self._slot(job) % self.request.config.prefill for job in jobs]
        padded = [jobs[0]] * self.request.config.prefill
        for row, job in zip(rows, jobs, strict=True):
            padded[row] = job
        seen = torch.stack([self._codes(codes, job) for job in padded])
        fields = self._fields([job.window for job in padded])
        lanes, live = self._index([self._slot(job) for job in jobs]), self._index(rows)
        wanted = self._index([job.result for job in jobs])
        for branch, cache in enumerate(bank.caches):
            dropped = torch.full((len(padded),), branch == 1, device=seen.device)
            logits = self.prior.prefill(seen, fields, dropped, cache, lanes, live)
            results[branch, wanted] = logits[live].float()
        for job in jobs:
            bank.held[job.lane] = Held(job.window, job.codes, job.codes)

    def _step(self, bank: Bank, jobs: Sequence[Job], codes: Tensor, results: Tensor) -> None:
        """One more code for every lane of the jobs; the others idle."""
        lanes = self._index([self._slot(job) for job in jobs])
        read = codes.new_zeros(self.request.config.lanes)
        read[lanes] = torch.stack([self._code(codes, job.window, bank.held[job.lane].codes) for job in jobs])
        wanted = self._index([job.result for job in jobs])
        for branch, cache in enumerate(bank.caches):
            results[branch, wanted] = self.prior.step(read, cache, lanes)[lanes].float()
        for job in jobs:
            held = bank.held[job.lane]
            bank.held[job.lane] = held._replace(codes=held.codes + 1)

    def _codes(self, codes: Tensor, job: Job) -> Tensor:
        """The (t,) codes of a job's window that come before it, in the prior's order."""
        image, top, left = job.window
        rows, columns = self.prior.window
        return codes[image, top : top + rows, left : left + columns].flatten()[self.prior.cells[: job.codes]]

    def _code(self, codes: Tensor, window: Window, number: int) -> Tensor:
        """The () code of a window with this number in the prior's order."""
        row, column = divmod(self.cells[number], self.prior.window[1])
        return codes[window.image, window.top + row, window.left + column]

    def _fields(self, windows: Sequence[Window]) -> Mapping[str, Tensor]:
        """The condition's share of each window, (n, ...)."""
        cut = []
        for image, top, left in windows:
            whole = {name: tensor[image : image + 1] for name, tensor in self.request.fields.items()}
            cut.append(self.prior.condition.cut(whole, CropLocation(top, left, self.request.size)))
        return {name: torch.cat([part[name] for part in cut]) for name in cut[0]}

    def _slot(self, job: Job) -> int:
        return job.lane % self.request.config.lanes

    def _index(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.prior.cells.device)
