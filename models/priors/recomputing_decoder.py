"""A window prior without a cache on grids of any size: the whole window is computed anew for every code.

Shapes: B images, (H, W) their grids, (h, w) the window, n cells, K codes, L lanes.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..conditions import Condition, CropLocation, Fields
from .base import Prediction
from .decoding import Cell, DecodingRequest, Logits, window_start


class RecomputedPrior(Protocol):
    """What the decoder needs of a prior, whose order is the raster's."""

    codes: int
    window: tuple[int, int]
    condition: Condition

    def __call__(self, indices: Tensor, fields: Fields, *, dropped: Tensor | None = None) -> Prediction:
        """Logits of every code of some windows."""


class RecomputingDecoder:
    """Samples with one forward of the window a code; see ``Decoder``.

    Forwards have a fixed number of lanes, and an image's number decides its lane, so that its numbers do not depend on
    the images beside it, wherever kernels are deterministic.
    """

    rows_at_once = 1
    reads_given = False
    barriers: frozenset[int] = frozenset()

    def __init__(self, prior: RecomputedPrior, request: DecodingRequest) -> None:
        self.prior = prior
        self.request = request
        self.order: Sequence[Cell] = [
            Cell(row, column) for row in range(request.size[0]) for column in range(request.size[1])
        ]
        for length, window in zip(request.size, prior.window, strict=True):
            window_start(0, length, window)  # grids below the window are refused
        self.turns = _turns(request.image_ids, request.config.lanes)

    def reach(self, column: int) -> int:
        """Unused, for rows are not staggered: the grid's last column."""
        return self.request.size[1] - 1

    def prepare(self, codes: Tensor, cells: Sequence[Cell]) -> Iterator[None]:
        """Nothing is read before."""
        yield from ()

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """See ``Decoder``."""
        conditioned = torch.cat([self._of(codes, cell, absent=False) for cell in cells])
        if not self.request.guided:
            return Logits(conditioned, None)
        return Logits(conditioned, torch.cat([self._of(codes, cell, absent=True) for cell in cells]))

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Nothing is remembered."""

    def _of(self, codes: Tensor, cell: Cell, absent: bool) -> Tensor:
        """(B, K) logits of one cell of every image."""
        rows, columns = self.prior.window
        top = window_start(cell.row, self.request.size[0], rows)
        left = window_start(cell.column, self.request.size[1], columns)
        place = CropLocation(top, left, self.request.size)
        windows = codes[:, top : top + rows, left : left + columns].clamp(min=0)  # what is unknown lies behind
        fields = self.prior.condition.cut(self.request.fields, place)
        found = torch.empty(len(codes), self.prior.codes, device=codes.device)
        lanes = self.request.config.lanes
        dropped = torch.full((lanes,), absent, device=codes.device)
        for images in self.turns:
            chosen = torch.tensor(images, device=codes.device)
            predicted = self.prior(windows[chosen], {n: f[chosen] for n, f in fields.items()}, dropped=dropped)
            if predicted.logits is None:
                raise ValueError("a prior that is called without targets gives logits, and this one gave none")
            found[chosen] = predicted.logits[:, cell.row - top, cell.column - left].float()
        return found


def _turns(numbers: Sequence[int], lanes: int) -> list[list[int]]:
    """Which image lies in each lane of each forward; lanes that nobody needs repeat another's image."""
    queues: list[list[int]] = [[] for _ in range(lanes)]
    for image, number in enumerate(numbers):
        queues[number % lanes].append(image)
    turns = []
    for turn in range(max(map(len, queues))):
        row = [queue[turn] if turn < len(queue) else None for queue in queues]
        spare = next(image for image in row if image is not None)
        turns.append([spare if image is None else image for image in row])
    return turns
