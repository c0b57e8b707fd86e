"""What every visit of an endless stream goes to: the source, the sample, and the key of its randomness."""

from collections.abc import Sequence
from typing import NamedTuple

from .keys import mix, text_key
from .order import Mixture, Place, ShardOrder


class Visit(NamedTuple):
    """One coming to one sample."""

    source: int
    epoch: int
    place: Place
    attempt: int = 0  # counts the samples that were tried in its place and could not be used


class Schedule:
    """Visits as a function of their number.

    Args:
        counts: samples of each shard of each source.
        weights: share of each source.
        seed: another seed is another order.
        window: shards of a source permuted together; 0 for all.
    """

    def __init__(self, counts: Sequence[Sequence[int]], weights: Sequence[float], seed: int, window: int) -> None:
        self._seed = seed
        self._orders = [ShardOrder(shards, mix(seed, source), window) for source, shards in enumerate(counts)]
        self._mixture = Mixture([order.length for order in self._orders], weights, seed)

    def visit(self, number: int) -> Visit:
        """The ``number``-th visit, counted from 0 without end."""
        source, epoch, position = self._mixture.turn(number)
        return Visit(source, epoch, self._orders[source].place(epoch, position))

    def substitute(self, number: int, failed: Visit) -> Visit:
        """The sample to take when that of a visit cannot be used: drawn by arithmetic, so the same on every rank."""
        order = self._orders[failed.source]
        attempt = failed.attempt + 1
        position = mix(self._seed, number, attempt, 3) % order.length
        return Visit(failed.source, failed.epoch, order.place(failed.epoch, position), attempt)

    def crop_key(self, visit: Visit, key: str, crop: int) -> int:
        """The key of the randomness of one crop of the sample that a visit goes to."""
        return mix(self._seed, visit.epoch, text_key(key), crop, visit.attempt)
