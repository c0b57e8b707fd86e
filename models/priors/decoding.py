"""What a sampler asks of a prior: the logits of cells, step by step, given everything sampled before them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..conditions import Fields


class Cell(NamedTuple):
    """A code of a grid."""

    row: int
    column: int


class Guidance(Protocol):
    """What decoders read of a guidance config."""

    @property
    def scale(self) -> float:
        """1 where the logits without the condition are not needed."""


class DecodingConfig(Protocol):
    """What decoders read of a sampling config; ``lanes`` and ``prefill`` change speed and rounding alone."""

    @property
    def stride(self) -> int:
        """Codes of a row that share one window."""

    @property
    def scene_windows(self) -> bool:
        """Whether windows begin as those of the published scenes."""

    @property
    def lanes(self) -> int:
        """Windows that share one forward."""

    @property
    def prefill(self) -> int:
        """Windows read anew in one forward, a divisor of the lanes."""

    @property
    def guidance(self) -> Guidance:
        """Classifier-free guidance."""


@dataclass(frozen=True)
class DecodingRequest:
    """The images to be sampled together."""

    fields: Fields  # of the whole images, B rows each
    size: tuple[int, int]  # (H, W) codes of each
    image_ids: tuple[int, ...]  # the B images' numbers, which key their randomness
    config: DecodingConfig
    lane_ids: tuple[int, ...] = ()  # what decides their lanes, where it is not these numbers

    @property
    def lane_numbers(self) -> tuple[int, ...]:
        """What decides the lanes of the B images."""
        return self.lane_ids or self.image_ids

    @property
    def guided(self) -> bool:
        """Whether the logits without the condition are needed too."""
        return self.config.guidance.scale != 1


Cells = npt.NDArray[np.int64]
"""(n, 2) rows and columns of n cells."""


class Schedule(NamedTuple):
    """All that will be sampled of B grids, known before the first step."""

    steps: Sequence[Cells]  # the cells of each step, which depend on none of the same step
    passed: npt.NDArray[np.bool_]  # (H, W) cells that were sampled before the sample was stopped
    drawn: npt.NDArray[np.bool_]  # (B, H, W) codes to be drawn; all others are there

    def addresses(self) -> npt.NDArray[np.int64]:
        """(B, H, W): where a code is written among all B * H * W, or behind them for those that are not drawn."""
        numbers = np.arange(self.drawn.size).reshape(self.drawn.shape)
        return np.where(self.drawn & ~self.passed, numbers, self.drawn.size)


Draw = Callable[[Tensor, Tensor], None]
"""Takes the (branches, n, K) logits of n codes, with the condition and, where they are guided, without it; and (n,)
where the codes are written among all, as ``Schedule.addresses`` has it. It waits for nothing."""


class Decoder(Protocol):
    """Samples the grids of one request; it may remember what it has computed.

    The numbers that it gives for a cell of an image depend on that image's codes and number, on the cell, and on
    the request's config alone: not on the other images, nor on which cells are asked for together.
    """

    order: Sequence[Cell]
    """Every cell in the order of prediction."""

    rows_at_once: int
    """How many rows can be sampled as one wavefront; 1 where the order does not run row by row."""

    reads_given: bool
    """Whether given cells are to be asked for too, as their keys and values are needed."""

    barriers: frozenset[int]
    """Rows that begin when all rows above them are complete."""

    def reach(self, column: int) -> int:
        """The last column of the rows above that a code of this column depends on."""
        ...

    def run(self, codes: Tensor, schedule: Schedule, draw: Draw) -> Iterator[int]:
        """Predict the cells of every step and let them be drawn; called once.

        Args:
            codes: (B * H * W + 1,) int64, those of all grids, known wherever the first cells depend on them, and a
                spare one behind them. ``draw`` writes to it; it stays where it is.
            schedule: what is to be sampled. Cells that were passed are not predicted once more, and what follows has
                the same bits as if they had been.
            draw: takes the logits.

        Yields:
            How many steps are complete, after each of them, and where something was read between them.
        """
        ...


def window_start(position: int, length: int, window: int) -> int:
    """Where the prior's window begins along one axis of the grid, so that it predicts ``position``.

    The window centers on the position and stops at the edges: Esser et al. 2021, figure 3.

    Args:
        position: row or column to predict, in codes, 0 <= position < length.
        length: rows or columns of the whole grid, in codes; 64 for 1024 pixels at factor 16.
        window: rows or columns the prior was trained on, in codes.

    Raises:
        ValueError: the grid is smaller than the window, or the position is outside of it.
    """
    return strided_start(position, length, window, 1)


def strided_start(position: int, length: int, window: int, stride: int, late: bool = False) -> int:
    """The same where ``stride`` neighbors, counted from 0, share one window that centers on all of them.

    Args:
        late: where the middle lies between two codes, the window begins behind it, one code later: the rule of the
            published script for scenes, which differs from all its others.

    Raises:
        ValueError: as ``window_start``, or the stride is wider than the window.
    """
    if length < window:
        raise ValueError(
            f"the prior needs grids of at least {window} codes a side, got {length}; "
            "ask for a larger image, or train a prior with a smaller window"
        )
    if not 0 <= position < length:
        raise ValueError(f"position must be in [0, {length}), got {position}")
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be from 1 to the window's {window} codes, got {stride}")
    first = position - position % stride
    return min(max(first - (window - stride + (not late)) // 2, 0), length - window)
