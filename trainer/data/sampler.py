"""Maps a draw number to (source, epoch, sample): shard order, mixtures and the schedule of draws.

A permutation is computed, not stored, so that any position can be had without those before it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..keyed_random import mix, splitmix64, splitmix64_of_all, text_key
from ..shards.index import SampleLocation

Numbers = npt.NDArray[np.int64]


class SampleDraw(NamedTuple):
    """One coming to one sample."""

    source: int
    epoch: int
    place: SampleLocation
    attempt: int = 0  # counts the samples that were tried in its place and could not be used


_ROUND_KEYS = ((0, 1 << 56), (2 << 56, 3 << 56), (4 << 56, 5 << 56))  # six rounds, in pairs
_KEYS = 4096  # of windows and lanes that are kept
_FEW = 8  # positions up to which one by one is as cheap
_CYCLE = 1024  # positions in which the sources of a mixture have their exact shares


class SourceDraw(NamedTuple):
    """One visit to one sample of one source of a mixture."""

    source: int
    epoch: int  # of that source
    number: int  # 0 <= number < visits of that source in an epoch


def permute(position: int, length: int, key: int) -> int:
    """The image of ``position`` under a permutation of range(length) that ``key`` chooses.

    A Feistel network on the smallest power of two that holds the range, walked until it lands inside (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains", method 2). Less than two walks on average from 9 items on.
    """
    if not 0 <= position < length:
        raise ValueError(f"position must lie in [0, {length}), got {position}")
    if length == 1:
        return 0
    bits = max((length - 1).bit_length(), 4)
    low_bits = bits // 2
    low_mask = (1 << low_bits) - 1
    high_mask = (1 << (bits - low_bits)) - 1
    mixed = splitmix64  # looked up once: this is the innermost loop of reading codes
    while True:
        high, low = position >> low_bits, position & low_mask
        for upper, lower in _ROUND_KEYS:
            high ^= mixed(key ^ upper ^ low) & high_mask
            low ^= mixed(key ^ lower ^ high) & low_mask
        position = high << low_bits | low
        if position < length:
            return position


def permute_all(positions: Numbers, length: int, key: int) -> Numbers:
    """(N,) as ``permute`` of each position; many at once cost a third."""
    bits = max((length - 1).bit_length(), 4)
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = (np.uint64((1 << width) - 1) for width in (bits // 2, bits - bits // 2))
    keys = [tuple(np.uint64(key ^ each) for each in pair) for pair in _ROUND_KEYS]
    found = positions.astype(np.int64)
    walking, places = np.arange(len(positions)), positions.astype(np.uint64)
    while len(walking) > _FEW:
        high, low = places >> low_bits, places & low_mask
        for upper, lower in keys:
            high = high ^ (splitmix64_of_all(low ^ upper) & high_mask)
            low = low ^ (splitmix64_of_all(high ^ lower) & low_mask)
        places = high << low_bits | low
        inside = places < length
        found[walking[inside]] = places[inside]
        walking, places = walking[~inside], places[~inside]
    for place in walking.tolist():
        found[place] = permute(int(positions[place]), length, key)
    return found


class Lane(NamedTuple):
    """The part of a line of samples that one row of all global batches goes through."""

    begin: int  # where it begins in the line
    length: int


def lane(row: int, first_row: int, rows: int, length: int) -> Lane:
    """The lane of a row when the samples of a line are dealt to rows in turn.

    Lanes follow each other in the order of the rows and fill the line, so that neighboring rows read the same shards.

    Args:
        row: 0 <= row < rows.
        first_row: that gets the first sample.
        rows: of a global batch.
        length: of the line, in samples.
    """
    full, more = divmod(length, rows)  # the rows from first_row on, around the end, get one more
    end = first_row + more
    below = max(min(row, end) - first_row, 0) + max(min(row, end - rows), 0)
    return Lane(row * full + below, full + ((row - first_row) % rows < more))


class ShardOrder:
    """The order in which the epochs of one set of shards visit its samples.

    The shards of an epoch stand in a keyed order; ``window`` of them at a time are permuted sample by sample, so that
    at most that many shards are in use at once. Each epoch holds every sample exactly once.

    With ``rows`` the samples of a window lie in lanes, one for each row of a global batch, and are permuted within
    them: whoever reads some neighboring rows of all batches, as a node does, reads that part of the shards alone.

    Args:
        counts: samples of each shard.
        seed: another seed is another order.
        window: shards permuted together; 0 permutes all of them.
        rows: of a global batch, for lanes; 0 for none.
    """

    def __init__(self, counts: Sequence[int], seed: int, window: int = 0, rows: int = 0) -> None:
        self.length = sum(counts)
        if self.length == 0:
            raise ValueError("the shards hold no sample")
        self._counts = tuple(counts)
        self._seed = seed
        self._window = window or len(counts)
        self._rows = rows
        self._arrange = lru_cache(maxsize=2)(self._arrangement)
        self._begins = lru_cache(maxsize=2)(lambda epoch: np.array(self._arrange(epoch)[1], np.int64))
        self._key = lru_cache(maxsize=_KEYS)(partial(mix, seed))  # of a window, or of a lane of one

    def place(self, epoch: int, position: int) -> SampleLocation:
        """The sample at ``position``, 0 <= position < length, of an epoch."""
        shards, starts = self._arrange(epoch)
        window = bisect_right(starts, position) - 1
        first = window // self._window * self._window
        last = min(first + self._window, len(shards))
        begin = starts[first]
        length = starts[last] - begin
        if self._rows:
            turn, row = (position - begin) // self._rows, (epoch * self.length + position) % self._rows
            own = lane(row, (epoch * self.length + begin) % self._rows, self._rows, length)
            inside = permute(turn, own.length, self._key(epoch, first, row)) + own.begin + begin
        else:
            inside = permute(position - begin, length, self._key(epoch, first)) + begin
        slot = bisect_right(starts, inside) - 1
        return SampleLocation(shards[slot], inside - starts[slot])

    def places(self, epoch: int, positions: Sequence[int]) -> list[SampleLocation]:
        """As ``place`` of each of some ascending positions."""
        if self._rows:
            return [self.place(epoch, position) for position in positions]
        shards, starts = self._arrange(epoch)
        found: list[SampleLocation] = []
        while len(found) < len(positions):
            first = (bisect_right(starts, positions[len(found)]) - 1) // self._window * self._window
            begin, end = starts[first], starts[min(first + self._window, len(shards))]
            here = positions[len(found) : bisect_left(positions, end)]
            inside = permute_all(np.array(here, np.int64) - begin, end - begin, self._key(epoch, first)) + begin
            slots = np.searchsorted(self._begins(epoch), inside, side="right") - 1
            numbers = inside - self._begins(epoch)[slots]
            pairs = zip(slots.tolist(), numbers.tolist(), strict=True)
            found += [SampleLocation(shards[slot], number) for slot, number in pairs]
        return found

    def read_by(self, epoch: int, rows: range) -> list[list[int]]:
        """The shards of which some neighboring rows read samples in an epoch, window after window; needs lanes."""
        return [self._of_window(epoch, first, rows) for first in range(0, len(self._arrange(epoch)[0]), self._window)]

    def window_at(self, count: int) -> tuple[int, int]:
        """The window of the ``count``-th visit, counted from 0 without end: its epoch and its first shard's place."""
        epoch, position = divmod(count, self.length)
        return epoch, (bisect_right(self._arrange(epoch)[1], position) - 1) // self._window * self._window

    def now_and_next(self, window: tuple[int, int], rows: range) -> tuple[list[int], list[int]]:
        """The shards of a window, and of the one after it, that some neighboring rows read: without lanes, all."""
        epoch, first = window
        follows = first + self._window
        after = (epoch, follows) if follows < len(self._arrange(epoch)[0]) else (epoch + 1, 0)
        return self._of_window(epoch, first, rows), self._of_window(*after, rows)

    def _of_window(self, epoch: int, first: int, rows: range) -> list[int]:
        """The shards of a window of which these rows read samples."""
        shards, starts = self._arrange(epoch)
        if not self._rows:
            return shards[first : first + self._window]
        begin, end = starts[first], starts[min(first + self._window, len(shards))]
        first_row = (epoch * self.length + begin) % self._rows
        head, last = (lane(row, first_row, self._rows, end - begin) for row in (rows[0], rows[-1]))
        low, high = begin + head.begin, begin + last.begin + last.length
        return shards[bisect_right(starts, low) - 1 : bisect_left(starts, high)] if low < high else []

    def _arrangement(self, epoch: int) -> tuple[list[int], list[int]]:
        """The shards of an epoch in their order, and the position at which each begins (and the last ends)."""
        shards = shard_order(self._seed, epoch, (shard for shard, count in enumerate(self._counts) if count))
        return shards, list(accumulate((self._counts[shard] for shard in shards), initial=0))

    def __reduce__(self) -> tuple[type["ShardOrder"], tuple[Any, ...]]:
        return ShardOrder, (self._counts, self._seed, self._window, self._rows)


class Mixture:
    """Which source each visit of an endless stream goes to.

    Every run of 1024 visits that starts at a multiple of 1024 holds each source its exact share of times (weights are
    rounded to 1/1024 by largest remainder, at least one each); their order inside is keyed. Each source goes through
    its own epochs, each visit of an epoch exactly once.

    Args:
        lengths: visits in an epoch of each source.
        weights: shares of the stream, any positive scale.
        seed: another seed is another order.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._lengths = tuple(lengths)
        self._seed = seed
        self._shares = shares(weights, _CYCLE if len(weights) > 1 else 1)
        self._starts = list(accumulate(self._shares, initial=0))

    def turn(self, visit: int) -> SourceDraw:
        """The source, its epoch and the number in that epoch of the ``visit``-th visit, counted from 0."""
        if len(self._lengths) == 1:
            return SourceDraw(0, *divmod(visit, self._lengths[0]))
        cycle, inside = divmod(visit, self._starts[-1])
        slot = permute(inside, self._starts[-1], mix(self._seed, cycle, 2))
        source = bisect_right(self._starts, slot) - 1
        count = cycle * self._shares[source] + slot - self._starts[source]
        epoch, number = divmod(count, self._lengths[source])
        return SourceDraw(source, epoch, number)

    def counts(self, visit: int) -> list[int]:
        """How often each source has been visited where a run of 1024 visits begins."""
        return [visit // self._starts[-1] * share for share in self._shares]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers, at least 1 each, that add up to ``total`` in the proportion of the weights.

    Raises:
        ValueError: a weight is not positive, or there are more weights than ``total``.
    """
    if not weights or min(weights) <= 0 or len(weights) > total:
        raise ValueError(f"a mixture needs 1 to {total} sources with positive weights, got {list(weights)}")
    exact = [weight / sum(weights) * total for weight in weights]
    wholes = [max(int(share), 1) for share in exact]
    while sum(wholes) > total:  # many tiny weights were raised to 1
        wholes[max(range(len(wholes)), key=wholes.__getitem__)] -= 1
    by_remainder = sorted(range(len(wholes)), key=lambda i: (wholes[i] - exact[i], i))
    for i in by_remainder[: total - sum(wholes)]:
        wholes[i] += 1
    return wholes


def crop_key(seed: int, epoch: int, key: str, crop: int, attempt: int = 0) -> int:
    """The key of the randomness of one crop of a sample, in an epoch; attempts count samples in place of others."""
    return mix(seed, epoch, text_key(key), crop, attempt)


def shard_order(seed: int, epoch: int, shards: Iterable[int]) -> list[int]:
    """The shards of a source in the order in which an epoch visits them."""
    return sorted(shards, key=lambda shard: mix(seed, epoch, shard, 1))


class Schedule:
    """Visits as a function of their number.

    Args:
        counts: samples of each shard of each source.
        weights: share of each source.
        seed: another seed is another order.
        window: shards of a source permuted together; 0 for all.
        rows: of a global batch, to deal the samples of a single source to lanes; 0 for no lanes.

    Raises:
        ValueError: there are lanes and several sources, of which none comes at the same rows of every batch.
    """

    def __init__(
        self, counts: Sequence[Sequence[int]], weights: Sequence[float], seed: int, window: int, rows: int = 0
    ) -> None:
        if rows and len(counts) > 1:
            raise ValueError(f"lanes need one data set, got a mixture of {len(counts)}; leave lanes out")
        self._seed = seed
        self._orders = [ShardOrder(shards, mix(seed, source), window, rows) for source, shards in enumerate(counts)]
        self._mixture = Mixture([order.length for order in self._orders], weights, seed)

    def visit(self, number: int) -> SampleDraw:
        """The ``number``-th visit, counted from 0 without end."""
        source, epoch, position = self._mixture.turn(number)
        return SampleDraw(source, epoch, self._orders[source].place(epoch, position))

    def visits(self, numbers: Sequence[int]) -> list[SampleDraw]:
        """As ``visit`` of each of some ascending numbers; together they cost less."""
        if len(self._orders) > 1 or len(numbers) <= _FEW:
            return [self.visit(number) for number in numbers]
        (order,), found = self._orders, list[SampleDraw]()
        for epoch, alike in groupby(numbers, lambda number: number // order.length):
            positions = [number - epoch * order.length for number in alike]
            found += [SampleDraw(0, epoch, place) for place in order.places(epoch, positions)]
        return found

    def substitute(self, number: int, failed: SampleDraw) -> SampleDraw:
        """The sample to take when that of a visit cannot be used: drawn by arithmetic, so the same on every rank."""
        order = self._orders[failed.source]
        attempt = failed.attempt + 1
        position = mix(self._seed, number, attempt, 3) % order.length
        return SampleDraw(failed.source, failed.epoch, order.place(failed.epoch, position), attempt)

    def windows_at(self, number: int) -> tuple[tuple[int, int], ...]:
        """The window of each source at a visit: of several, to within 1024 visits."""
        counts = self._mixture.counts(number)
        return tuple(order.window_at(count) for order, count in zip(self._orders, counts, strict=True))

    def now_and_next(self, windows: tuple[tuple[int, int], ...], rows: range) -> list[tuple[list[int], list[int]]]:
        """For each source, the shards of a window and of the one after it that some neighboring rows read."""
        return [order.now_and_next(window, rows) for order, window in zip(self._orders, windows, strict=True)]

    def crop_key(self, visit: SampleDraw, key: str, crop: int) -> int:
        """The key of the randomness of one crop of the sample that a visit goes to."""
        return crop_key(self._seed, visit.epoch, key, crop, visit.attempt)
