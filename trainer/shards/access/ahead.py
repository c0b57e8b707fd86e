"""Whole shards that will be wanted soon, fetched into the cache of a machine before they are."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from .shard_files import ShardFiles


class Wanted(NamedTuple):
    """A shard of one of several sets."""

    source: int
    shard: int


class FetchAhead:
    """Fetches shards in a thread; one process of a machine has one, and all of its processes read from the cache.

    What cannot be fetched is left to whoever reads it, whose error it is.

    Args:
        files: of each source.
    """

    def __init__(self, files: Sequence[ShardFiles]) -> None:
        self._files = files
        self._wanted: list[Wanted] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="shards ahead", daemon=True)
        self._thread.start()

    def want(self, now: Sequence[Wanted], then: Sequence[Wanted]) -> None:
        """Takes the place of what was wanted before.

        Args:
            now: shards of which samples are read now; the cache holds them in any case.
            then: those of the next window, of which as many are fetched as fit beside the others.
        """
        room = min((files.cache_bytes for files in self._files), default=0)
        chosen: list[Wanted] = []
        for each in (*now, *then):
            room -= self._files[each.source].bytes_in_cache(each.shard)
            if room < 0:
                break
            if self._files[each.source].is_fetched_whole(each.shard):
                chosen.append(each)
        with self._changed:
            self._wanted = chosen
            self._changed.notify()

    def close(self) -> None:
        """Fetches no more; a shard that is on its way is left to come."""
        with self._changed:
            self._ended, self._wanted = True, []
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._wanted)
                if self._ended:
                    return
                source, shard = self._wanted.pop(0)
            with suppress(OSError, ValueError):
                self._files[source].bring(shard)
