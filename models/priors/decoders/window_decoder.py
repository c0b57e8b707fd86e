"""A window prior on grids of any size: the window follows the cell, and caches live while it stands still.

Every window that is being sampled has a lane. A cell's lane, and so the row of every matrix product that its numbers
pass through, depends on the image's number and the row alone; forwards have fixed shapes with empty lanes padded.
So a cell's logits have the same bits whatever is sampled beside it, wherever kernels are deterministic.

Shapes: B images, (H, W) their grids, (h, w) the window, n windows read anew in one forward, K codes, L lanes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ...conditions import Condition, Fields, WindowLocations
from ..decoding import Cell, DecodingRequest, Draw, Schedule, strided_start
from .step_graph import StepGraph
from .step_table import Array, Entries, LaneMap, StepTable
from .window_plan import Planner, WindowGeometry, WindowPlan


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


class Lanes(NamedTuple):
    """The lanes of one forward, in which rows of some images are read; those of guided images are there twice."""

    cache: LaneCache
    logits: Tensor  # (branches * L + 1, K) float32: what each lane predicts; the last one is spare


class Tables(NamedTuple):
    """What the lanes of one forward do, in the order in which they do it; see ``WindowPlan``."""

    begun: dict[int, Entries]  # by the padded number of codes
    read: Entries
    drawn: Entries


class WindowDecoder:
    """Samples with a ``GPT`` or a ``PixelSNAIL``; see ``Decoder``."""

    reads_given = False

    def __init__(self, prior: WindowPrior, request: DecodingRequest) -> None:
        self.prior = prior
        self.request = request
        cells: list[int] = prior.cells.tolist()
        raster = cells == sorted(cells)
        (height, width), (rows, columns) = request.size, prior.window
        if not raster and request.size != prior.window:
            raise ValueError(
                f"a prior with the order {prior.config.order.kind!r} samples grids of its window {prior.window} alone, "
                f"got {request.size}; train one with the order 'raster' for other sizes"
            )
        # Where the window of every row and column begins; grids below the window are refused.
        stride, late = request.config.stride, request.config.scene_windows
        tops = [strided_start(row, height, rows, 1, late) for row in range(height)]
        lefts = [strided_start(column, width, columns, stride, late) for column in range(width)]
        self.order: Sequence[Cell] = (
            [Cell(row, column) for row in range(height) for column in range(width)]
            if raster
            else [Cell(*divmod(cell, columns)) for cell in cells]
        )
        self.rows_at_once = min(prior.rows_at_once(width), request.config.lanes)
        self.geometry = WindowGeometry(request.size, prior.window, tops, lefts, cells, self.rows_at_once)
        # Codes before a cell amid the grid.
        self.inner = rows // 2 * columns + (columns - request.config.stride + 1) // 2
        # Below this row windows hold more codes than amid the grid: rows of both kinds would need two forwards a step.
        first = height - rows + rows // 2 + 1
        self.barriers = frozenset([first] if self.rows_at_once > 1 else [])
        self.branches = 2 if request.guided else 1
        self.lane_map = LaneMap(request.lane_numbers, self.rows_at_once, request.config.lanes)

    def reach(self, column: int) -> int:
        """The right edge of the column's window."""
        return self.geometry.lefts[column] + self.prior.window[1] - 1

    def run(self, codes: Tensor, schedule: Schedule, draw: Draw) -> Iterator[int]:
        """See ``Decoder``. What lanes would have read of passed cells is read when their window is needed once more."""
        plan = Planner(self.geometry).plan(schedule)
        weights, written = self.prior.step_weights(), schedule.addresses().reshape(len(schedule.drawn), -1)
        graphs: dict[int, list[StepGraph]] = defaultdict(list)  # what each action does, in this order
        for number in range(self.lane_map.forwards):
            # The second half of the lanes has no condition.
            count = self.branches * self.request.config.lanes
            logits = torch.zeros(count + 1, self.prior.codes, device=codes.device)
            lanes = Lanes(self.prior.cache(count, weights), logits)
            for table, parts, step in self._steps(lanes, self._tables(number, plan, written), codes, draw):
                graph = StepGraph(step, codes.device)
                for action in (table.forwards // parts).tolist():
                    graphs[action].append(graph)
        done = 0
        for end, complete in plan.pauses:
            for action in range(done, end):
                for graph in graphs[action]:
                    graph()
            done = end
            yield complete

    def _tables(self, number: int, plan: WindowPlan, written: Array) -> Tables:
        """What is for the lanes of one forward to do; ``written`` is (B, H * W), where each code is written."""
        (height, width), lanes, size = self.request.size, self.request.config.lanes, self.request.config.prefill
        images = np.arange(len(self.request.image_ids))

        def entries(table: Array, numbers: Callable[..., tuple[Array, ...]]) -> Entries:
            """For each row of a plan and each image one, if its lane is here."""
            action, slot, *given = table.T[:, :, None]
            forwards, places = self.lane_map.of(slot[:, 0])
            parts = np.broadcast_arrays(action, places, *numbers(*given))
            forward, row, *rest = (part[forwards == number] for part in parts)
            return Entries(forward, row, np.stack(rest))

        def begun(top: Array, left: Array, held: Array) -> tuple[Array, ...]:
            return images, top, left, held, (images * height + top) * width + left

        windows = entries(plan.begun, begun)
        anew = Entries(
            windows.forwards * (lanes // size) + windows.rows // size,
            windows.rows % size,
            np.concatenate((windows.numbers, windows.rows[None])),
        )
        lengths = self._padded(windows.numbers[3])
        return Tables(
            {length: anew.chosen(lengths == length) for length in np.unique(lengths).tolist()},
            entries(plan.read, lambda place: (images * height * width + place, np.ones_like(place))),
            entries(plan.drawn, lambda place: (written[images, place],)),
        )

    def _padded(self, counts: Array) -> Array:
        """How many codes are read at once for each count: a few lengths, one of them that of cells amid the grid.

        Rows that are sampled together share one, so that a step has one forward that reads windows anew.
        """
        rows, columns = self.prior.window
        part = max(rows // 4, 1) * columns if self.rows_at_once == 1 else rows * columns
        return np.minimum(self.inner - (self.inner - counts) // part * part, rows * columns - 1)

    def _steps(
        self, lanes: Lanes, tables: Tables, codes: Tensor, draw: Draw
    ) -> Iterator[tuple[StepTable, int, Callable[[], None]]]:
        """The kinds of steps of a forward's lanes, each with its table, of so many forwards an action."""
        count, size, device = self.request.config.lanes, self.request.config.prefill, codes.device
        spare = len(codes) - 1
        if len(tables.read.forwards):
            read = StepTable(self._doubled(tables.read, count), self.branches * count, np.array([spare, 0]), device)
            yield read, 1, partial(self._read_on, lanes, read, codes)
        for length, entries in tables.begun.items():
            both = self._doubled(entries, size, ahead=count)
            idle = np.array([0, 0, 0, 0, 0, lanes.cache.spare])
            anew = StepTable(both, self.branches * size, idle, device)
            yield anew, count // size, self._begin(lanes, anew, length, codes)
        if len(tables.drawn.forwards):
            drawn = StepTable(tables.drawn, count, np.array([spare]), device)
            used, logits = tables.drawn.used(), lanes.logits[:-1].view(self.branches, count, -1)
            yield drawn, 1, lambda: draw(logits[:, used], drawn.take()[0, used])

    def _doubled(self, entries: Entries, size: int, ahead: int = 0) -> Entries:
        """The same once more for the half without the condition, ``size`` rows further, where the image is guided.

        Args:
            ahead: how much larger the last number is there.
        """
        if self.branches == 1:
            return entries
        numbers = entries.numbers.copy()
        numbers[-1] += ahead
        return Entries(
            np.tile(entries.forwards, 2),
            np.concatenate((entries.rows, entries.rows + size)),
            np.concatenate((entries.numbers, numbers), axis=1),
        )

    def _read_on(self, lanes: Lanes, table: StepTable, codes: Tensor) -> None:
        """One more code for every lane that takes part."""
        left, live = table.take()
        read = codes.index_select(0, left).clamp(min=0)  # idle lanes may meet a code that is still unknown
        lanes.logits[:-1].copy_(self.prior.step(read, lanes.cache, live > 0))

    def _begin(self, lanes: Lanes, table: StepTable, length: int, codes: Tensor) -> Callable[[], None]:
        """Reads windows of one padded length anew; the empty rows of a forward read in vain."""
        device, size = codes.device, self.request.config.prefill
        cells = self.prior.cells[:length]
        offsets = cells // self.prior.window[1] * self.request.size[1] + cells % self.prior.window[1]
        numbers = torch.arange(length, device=device)
        without = torch.arange(self.branches * size, device=device) >= size

        def begin() -> None:
            images, tops, lefts, held, corners, targets = table.take()
            seen = codes[corners[:, None] + offsets].masked_fill(numbers >= held[:, None], 0)
            places = WindowLocations(images, tops, lefts, self.request.size)
            given = self.prior.condition.windows(self.request.fields, places)
            logits = self.prior.prefill(seen, held, given, without, lanes.cache, targets)
            lanes.logits.index_copy_(0, targets, logits.float())

        return begin
