"""What a sampler asks of a prior: the logits of some cells, given everything sampled before them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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

    @property
    def guided(self) -> bool:
        """Whether the logits without the condition are needed too."""
        return self.config.guidance.scale != 1


class Logits(NamedTuple):
    """The logits of some cells of all images: cell by cell, and image by image in a cell."""

    conditioned: Tensor  # (n, K) float32
    unconditional: Tensor | None  # (n, K) float32 without the condition; None where nothing is guided


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

    def prepare(self, codes: Tensor, cells: Sequence[Cell]) -> Iterator[None]:
        """What must be read before ``logits`` of these cells, if anything; yields after each forward."""
        ...

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """The logits of cells of different rows, for (B, H, W) codes that are known wherever these depend on them."""
        ...

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Take note of cells that were sampled before a sample was stopped.

        What follows has the same bits as if these cells had been asked for.
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
