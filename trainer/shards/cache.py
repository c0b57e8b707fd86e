"""Whole shards kept on the local disk for as long as there is room."""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..files import whole_file

_COPY = re.compile(r"[0-9a-f]{24}\.tar")

Download = Callable[[BinaryIO], None]  # writes a shard's bytes into an open file


class ShardCache:
    """A folder of downloaded shards, shared by all processes of a machine.

    Args:
        folder: is made if missing.
        limit: bytes that the shards may take; the one used longest ago goes first.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def get(self, url: str, size: int, download: Download) -> Path:
        """The local copy of a shard, downloaded if need be; by one process, while others that want it wait.

        The file may be removed for others at any time: open it at once; what is open stays readable.

        Args:
            url: names the shard.
            size: of the shard in bytes, as its index says; 0 if that is not known yet.
            download: fetches it.

        Raises:
            ValueError: the shard alone is larger than the limit.
            OSError: it cannot be fetched, or has another size.
        """
        if size > self._limit:
            raise ValueError(f"{url} has {size} bytes, the cache only {self._limit}; raise cache_gigabytes")
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self.path(url)
        with _locked(path.with_suffix(".lock")):
            if not path.exists() or (size and path.stat().st_size != size):
                self._make_room(size, path)
                with whole_file(path) as file:
                    download(file)
                    if size and file.tell() != size:
                        raise OSError(f"{url} has {file.tell()} bytes, its index says {size}")
            os.utime(path)
        return path

    def path(self, url: str) -> Path:
        """Where the copy of a shard lies, if there is one."""
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.tar"

    def _make_room(self, size: int, keep: Path) -> None:
        with _locked(self._folder / "room.lock"):
            mine = [path for path in self._folder.glob("*.tar") if _is_copy(path)]
            files = [(path.stat().st_mtime, path.stat().st_size, path) for path in mine]
            held = sum(length for _, length, _ in files)
            for _, length, path in sorted(files):
                if held + size <= self._limit:
                    return
                if path != keep:
                    path.unlink(missing_ok=True)
                    held -= length


def _is_copy(path: Path) -> bool:
    """Whether a shard was downloaded here: its name is a URL's hash, and it has the lock of that name."""
    return _COPY.fullmatch(path.name) is not None and path.with_suffix(".lock").exists()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the system frees when the process ends, however it ends."""
    with path.open("w") as file:
        with suppress(OSError):  # a file system without locks: two processes may download one shard
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
