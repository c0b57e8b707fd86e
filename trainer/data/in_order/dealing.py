"""Which shards the readers of a job go through, without knowing how many samples these hold.

The shards of all epochs make one line without end: those of epoch 0 in their keyed order, those of epoch 1, and so on.
They are dealt to the readers in turn, so each shard is read once an epoch by one reader, however many there are of
either; a reader that is done with one goes on to its next, and none waits for another.

Letters: S shards, Q readers of the job (ranks times processes that read).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..sampler import shard_order
from ..workers.datasets import ReadUpTo


class Dealing(NamedTuple):
    """What of the line of shards is dealt: reader k of Q has the turns k, k + Q, ...

    All turns of it where a run begins; where it went on with other readers, what those had not finished comes first.
    """

    left: tuple[int, ...] = ()  # places in the line, ascending
    then: int = 0  # the place from which on all are dealt

    def place(self, turn: int) -> int:
        """The place in the line of a turn."""
        return self.left[turn] if turn < len(self.left) else self.then + turn - len(self.left)

    def anew(self, reached: Sequence[ReadUpTo]) -> "Dealing":
        """What is to be dealt to other readers; shards that were begun are read from their beginning.

        Args:
            reached: by each of the Q readers so far.
        """
        first = min(place.turn for place in reached)
        end = max(len(self.left), 1 + max(place.turn for place in reached))
        open_turns = [turn for turn in range(first, end) if turn >= reached[turn % len(reached)].turn]
        return Dealing(tuple(self.place(turn) for turn in open_turns), self.place(end))


class ShardLine:
    """The line of shards.

    Args:
        shards: S.
        seed: another seed is another order.
    """

    def __init__(self, shards: int, seed: int) -> None:
        self._shards = shards
        self._seed = seed
        self._order = lru_cache(maxsize=2)(self._order_of)

    def at(self, place: int) -> tuple[int, int]:
        """The epoch and the shard at a place."""
        epoch, inside = divmod(place, self._shards)
        return epoch, self._order(epoch)[inside]

    def _order_of(self, epoch: int) -> list[int]:
        return shard_order(self._seed, epoch, range(self._shards))

    def __reduce__(self) -> tuple[type["ShardLine"], tuple[int, int]]:
        return ShardLine, (self._shards, self._seed)
