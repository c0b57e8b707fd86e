"""What can be wrong with a sample, how it is reported, and when too many are bad."""

import logging
from collections import Counter
from typing import Literal

Kind = Literal[
    "missing shard",
    "truncated shard",
    "unusable index",
    "damaged member",
    "missing field",
    "undecodable",
    "unreachable",
    "too small",
    "out of range",
]

PASSING: tuple[Kind, ...] = ("missing shard", "unreachable", "unusable index")
"""Errors of whole shards: they end a work over a whole set, and nothing is left out for them."""

_LOG = logging.getLogger(__name__)
_SMALLEST_BASE = 10_000  # samples; the share is taken of at least so many, or of the whole set if it is smaller


class SampleError(Exception):
    """One sample cannot be used. Crosses process borders."""

    def __init__(self, kind: Kind, shard: str, key: str, detail: str) -> None:
        super().__init__(kind, shard, key, detail)
        self.kind = kind
        self.shard = shard
        self.key = key
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.key} in {self.shard}: {self.detail}"


class TooManySampleErrorsError(RuntimeError):
    """More samples than the limit allows cannot be used."""


class SampleErrorLog:
    """Counts the errors of one rank by kind, reports each sample once, and stops the run past the limit.

    Args:
        limit: largest share of faulty samples, 0 to 1.
        samples: in the data set; 0 where nobody knows.
        what: they are, for messages.
    """

    def __init__(self, limit: float, samples: int, what: str = "sample") -> None:
        self._limit = limit
        self._what = what
        self._samples = samples
        self._reported: dict[tuple[str, str], Kind] = {}  # by shard and key
        self.counts: Counter[str] = Counter()
        self.seen = 0

    def add(self, seen: int, errors: list[SampleError]) -> None:
        """Takes in that ``seen`` samples were asked for and what was wrong with some of them.

        Raises:
            TooManySampleErrorsError: the share of faulty samples among those seen is above the limit; a sample that
                is met again, in another epoch or evaluation, counts once. Other ranks learn of it when this one ends,
                as from any error.
        """
        self.seen += seen
        for error in errors:
            self.counts[error.kind] += 1
            if (error.shard, error.key) not in self._reported:
                self._reported[error.shard, error.key] = error.kind
                _LOG.warning("replaced a %s: %s", self._what, error)
        known = max(self.seen, _SMALLEST_BASE)
        bad, known = len(self._reported), min(self._samples or known, known)
        if errors and bad > self._limit * known:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(self._reported.values()).most_common())
            raise TooManySampleErrorsError(
                f"{bad} of {known} {self._what}s could not be used ({kinds}), more than "
                f"max_bad_fraction = {self._limit:g} allows; the last: {errors[-1]}; "
                "repair or remove them, or raise max_bad_fraction"
            )
