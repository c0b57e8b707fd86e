"""The tars of a set of shards: opened where they are read, and only so many at a time."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..byte_ranges import LocalFile, Ranges
from ..patterns import is_remote
from ..remote import RemoteConfig, fetched_whole, open_remote

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

    def read_many(self, shard: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size) of a tar, in order; fewer than ``size`` only where it ends.

        Raises:
            FileNotFoundError: there is no such shard.
            OSError: it cannot be reached.
        """
        file = self._open.get(shard)
        if file is None:
            name = self._names[shard]
            file = open_remote(name, int(self._tar_bytes[shard]), self._remote) if is_remote(name) else LocalFile(name)
            self._open[shard] = file
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return file.read_many(ranges)

    def clear(self) -> None:
        """Lets go of all files."""
        while self._open:
            self._open.popitem()[1].close()

    def check_cache(self, in_use: int) -> None:
        """Makes sure that the shards of which samples are mixed fit the local cache, where whole shards go through it.

        Args:
            in_use: shards at a time.

        Raises:
            ValueError: they do not; each would be fetched again for nearly every sample.
        """
        through = [is_remote(name) and fetched_whole(name, self._remote) for name in self._names]
        sizes = np.sort(self._tar_bytes[through])[::-1].astype(np.int64)
        limit = int(self._remote.cache_gigabytes * 1e9)
        fitting = int(np.searchsorted(np.cumsum(sizes), limit, side="right"))
        if fitting < min(in_use, len(sizes)):
            raise ValueError(
                f"shuffle_window mixes {min(in_use, len(sizes))} shards that are fetched whole, of the largest only "
                f"{fitting} fit {self._remote.cache_gigabytes:g} GB; set shuffle_window to at most {max(fitting, 1)}, "
                "or raise remote.cache_gigabytes"
            )
