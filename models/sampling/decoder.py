"""What a sampler asks of a prior: the logits of some cells, given everything painted before them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from ..conditions import Fields
from .schedule import Cell


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
    def lanes(self) -> int:
        """Windows that share one forward."""

    @property
    def prefill(self) -> int:
        """Windows read anew in one forward, a divisor of the lanes."""

    @property
    def guidance(self) -> Guidance:
        """Classifier-free guidance."""


@dataclass(frozen=True)
class Request:
    """The pictures to be painted together."""

    fields: Fields  # of the whole pictures, B rows each
    size: tuple[int, int]  # (H, W) codes of each
    pictures: tuple[int, ...]  # the B pictures' numbers, which key their randomness
    config: DecodingConfig

    @property
    def guided(self) -> bool:
        """Whether the logits without the condition are needed too."""
        return self.config.guidance.scale != 1


class Logits(NamedTuple):
    """The logits of some cells of all pictures: cell by cell, and picture by picture in a cell."""

    conditioned: Tensor  # (n, K) float32
    absent: Tensor | None  # (n, K) float32 without the condition; None where nothing is guided


class Decoder(Protocol):
    """Paints the grids of one request; it may remember what it has computed.

    The numbers that it gives for a cell of a picture depend on that picture's codes and number, on the cell, and on
    the request's config alone: not on the other pictures, nor on which cells are asked for together.
    """

    order: Sequence[Cell]
    """Every cell in the order of prediction."""

    rows_at_once: int
    """How many rows can be painted as one wavefront; 1 where the order does not run row by row."""

    reads_given: bool
    """Whether given cells are to be asked for too, as their keys and values are needed."""

    def reach(self, column: int) -> int:
        """The last column of the rows above that a code of this column depends on."""
        ...

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """The logits of cells of different rows, for (B, H, W) codes that are known wherever these depend on them."""
        ...

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Take note of cells that were painted before a painting was stopped.

        What follows has the same bits as if these cells had been asked for.
        """
        ...
