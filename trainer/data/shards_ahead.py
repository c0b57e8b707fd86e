"""Which whole shards a machine will read soon, for the thread that fetches them."""

from collections.abc import Sequence

from ..shards.access.ahead import FetchAhead, Wanted
from ..shards.reader import ShardSet
from .sampler import Schedule


class ShardsAhead:
    """Follows the positions of a stream, and has the shards of this window and of the next one fetched.

    Does nothing where no shard goes through the local cache, or where another rank of the machine does it.

    Args:
        sets: the sources.
        schedule: of their samples.
        rows: of a global batch that this machine reads; none if another rank fetches for it.
    """

    def __init__(self, sets: Sequence[ShardSet], schedule: Schedule, rows: range) -> None:
        self._files = [shards.files for shards in sets]
        self._schedule = schedule
        self._rows = rows
        self._windows: tuple[tuple[int, int], ...] = ()
        self._is_needed = bool(rows) and any(files.fetches_whole for files in self._files)
        self._fetching: FetchAhead | None = None

    def at(self, number: int) -> None:
        """Takes notice of the visit that the stream has come to."""
        if not self._is_needed or (windows := self._schedule.windows_at(number)) == self._windows:
            return
        self._windows = windows
        if self._fetching is None:  # only now: workers that are forked beside a thread inherit its locks
            self._fetching = FetchAhead(self._files)
        wanted = self._schedule.now_and_next(windows, self._rows)
        now, then = (
            [Wanted(source, shard) for source, each in enumerate(wanted) for shard in each[place]] for place in (0, 1)
        )
        self._fetching.want(now, then)

    def close(self) -> None:
        """Fetches no more."""
        if self._fetching is not None:
            self._fetching.close()
