"""The tars of a set of shards: opened where they are read, and only so many at a time."""

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..byte_ranges import LocalFile, Ranges
from ..patterns import is_remote
from ..remote import RemoteConfig, RemoteFile, bring, fetched_whole, open_remote
from .requests import Stretch, fetch

_OPEN_FILES = 64  # a process; far below the usual limit of 1024


class ShardFiles:
    """Reads stretches of the tars of a set.

    Args:
        names: of the shards.
        tar_bytes: (S,) their sizes.
        remote: how those that lie elsewhere are read.
    """

    def __init__(self, names: Sequence[str], tar_bytes: npt.NDArray[np.uint64], remote: RemoteConfig) -> None:
        self._names = names
        self._tar_bytes = tar_bytes
        self._remote = remote
        self._open: OrderedDict[int, Ranges] = OrderedDict()
        self._gathered: dict[int, KeptStretches] = {}

    def read_many(self, shard: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size) of a tar, in order; fewer than ``size`` only where it ends.

        Raises:
            FileNotFoundError: there is no such shard.
            OSError: it cannot be reached.
        """
        kept = self._gathered.get(shard)
        if kept is not None and (found := kept.parts(ranges)) is not None:
            return found
        return self._file(shard).read_many(ranges)

    def read_open(self, shard: int, offset: int, size: int) -> bytes | None:
        """The bytes of one stretch of a local tar that is open; None where it is not, or they are not all there."""
        file = self._open.get(shard)
        if not isinstance(file, LocalFile):
            return None
        self._open.move_to_end(shard)
        return file.read_whole(offset, size)

    @cached_property
    def are_asked(self) -> bool:
        """Whether there are shards of which each reading is a request, so that many are better made at once."""
        return any(map(self.is_asked, range(len(self._names))))

    @cached_property
    def fetches_whole(self) -> bool:
        """Whether there are shards that go through the local cache."""
        return any(map(self.is_fetched_whole, range(len(self._names))))

    def is_asked(self, shard: int) -> bool:
        """Whether a shard is read in parts from where it lies."""
        return is_remote(self._names[shard]) and not fetched_whole(self._names[shard], self._remote)

    def is_fetched_whole(self, shard: int) -> bool:
        """Whether a remote shard goes through the local cache."""
        return is_remote(self._names[shard]) and fetched_whole(self._names[shard], self._remote)

    @property
    def cache_bytes(self) -> int:
        """Room of the local cache."""
        return int(self._remote.cache_gigabytes * 1e9)

    def bytes_in_cache(self, shard: int) -> int:
        """What a shard takes of the local cache."""
        return int(self._tar_bytes[shard]) if self.is_fetched_whole(shard) else 0

    def bring(self, shard: int) -> None:
        """Fetches a shard into the local cache, if it is not there.

        Raises:
            OSError: it cannot be fetched.
            ValueError: it is larger than the cache.
        """
        bring(self._names[shard], int(self._tar_bytes[shard]), self._remote)

    def gather(self, wanted: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        """Fetches the stretches (offset, size) of remote shards, all at once, for ``read_many`` to give out.

        They are kept until the next call. What cannot be had is left to ``read_many``, which knows whose fault it is.
        """
        self._gathered.clear()
        systems: dict[int, Any] = {}
        asked: dict[int, list[tuple[int, Stretch]]] = defaultdict(list)  # by file system, each with its shard
        for shard, ranges in wanted.items():
            with suppress(OSError, ValueError):
                file = self._file(shard) if ranges and self.is_asked(shard) else None
                if isinstance(file, RemoteFile):
                    systems[id(file.system)] = file.system
                    asked[id(file.system)] += [(shard, stretch) for stretch in file.stretches(ranges)]
        for number, system in systems.items():
            answers = fetch(system, [stretch for _, stretch in asked[number]], self._remote.timeout)
            for (shard, stretch), answer in zip(asked[number], answers, strict=True):
                if isinstance(answer, bytes):
                    self._gathered.setdefault(shard, KeptStretches()).add(stretch.start, answer)

    def renew(self, shard: int) -> None:
        """Lets go of what is kept of a shard, whose bytes turned out not to be those that were packed."""
        self._gathered.pop(shard, None)
        if shard in self._open:
            self._open[shard].renew()

    def _file(self, shard: int) -> Ranges:
        file = self._open.get(shard)
        if file is None:
            name = self._names[shard]
            file = open_remote(name, int(self._tar_bytes[shard]), self._remote) if is_remote(name) else LocalFile(name)
            self._open[shard] = file
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return file

    def clear(self) -> None:
        """Lets go of all files."""
        self._gathered.clear()
        while self._open:
            self._open.popitem()[1].close()

    def check_cache(self, in_use: int) -> None:
        """Makes sure that the shards of which samples are mixed fit the local cache, where whole shards go through it.

        Args:
            in_use: shards at a time.

        Raises:
            ValueError: they do not; each would be fetched again for nearly every sample.
        """
        through = list(map(self.is_fetched_whole, range(len(self._names))))
        sizes = np.sort(self._tar_bytes[through])[::-1].astype(np.int64)
        limit = self.cache_bytes
        fitting = int(np.searchsorted(np.cumsum(sizes), limit, side="right"))
        if fitting < min(in_use, len(sizes)):
            raise ValueError(
                f"shuffle_window mixes {min(in_use, len(sizes))} shards that are fetched whole, of the largest only "
                f"{fitting} fit {self._remote.cache_gigabytes:g} GB; set shuffle_window to at most {max(fitting, 1)}, "
                "or raise remote.cache_gigabytes"
            )


class KeptStretches:
    """Stretches of a file that are in memory, added in the order in which they lie."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[bytes] = []

    def add(self, start: int, data: bytes) -> None:
        """Keeps one."""
        self._starts.append(start)
        self._pieces.append(data)

    def parts(self, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """The bytes of each (offset, size), or None where some are not here."""
        found = []
        for offset, size in ranges:
            place = bisect_right(self._starts, offset) - 1
            begin = offset - self._starts[max(place, 0)] if self._starts else 0
            part = self._pieces[place][begin : begin + size] if place >= 0 else b""
            if len(part) < size:
                return None
            found.append(part)
        return found
