"""Whole shards kept on the local disk for as long as there is room."""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..files import whole_file, write_whole

_COPY = re.compile(r"[0-9a-f]{24}\.tar")

_PAUSE = 0.02  # seconds

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

        The file may be removed for others at any time: open it at once, ask again where it is gone, and close it soon,
        for a file that is open keeps its room on the disk.

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
            if path.exists() and size and path.stat().st_size != size:
                path.unlink()  # of a download that was cut
            if not path.exists():
                self._make_room(size, path)
                with whole_file(path) as file:
                    download(file)
                    if size and file.tell() != size:
                        raise OSError(f"{url} has {file.tell()} bytes, its index says {size}")
                if not size:  # which is known only now; what others are busy with is left to them
                    self._has_room(0, path)
            os.utime(path)
        return path

    def one_copy(self, url: str, is_current: Callable[[bytes], bool], fetch: Callable[[], bytes]) -> bytes:
        """The bytes of a file that all processes of a machine want at once, fetched by the first of them.

        Args:
            url: names the file.
            is_current: whether bytes that were fetched before are those that it has now.
            fetch: gives its bytes.
        """
        copy = self.path(url).with_suffix(".copy")
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(copy.with_suffix(".lock")):
            with suppress(FileNotFoundError):
                data = copy.read_bytes()
                if is_current(data):
                    return data
            data = fetch()
            write_whole(copy, data)
        return data

    def path(self, url: str) -> Path:
        """Where the copy of a shard lies, if there is one."""
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.tar"

    def _make_room(self, size: int, keep: Path) -> None:
        """Removes what was used longest ago until so many bytes fit beside all that is here or on its way.

        Where others' downloads leave no room, waits for them, of which each ends or fails in time.
        """
        while not self._has_room(size, keep):
            time.sleep(_PAUSE)

    def _has_room(self, size: int, keep: Path) -> bool:
        with _locked(self._folder / "room.lock"):
            files = sorted(_copies(self._folder))
            others = sum(_on_its_way(path) for path in self._folder.glob("*.lock") if path.stem != keep.stem)
            held = others + sum(length for _, length, _ in files)
            for _, length, path in files:
                if held + size > self._limit and path != keep and _removed(path):
                    held -= length
            if held + size > self._limit and (others or any(path != keep and path.exists() for _, _, path in files)):
                return False  # others are being downloaded, or asked for just now
            keep.with_suffix(".lock").write_text(f"{size}")  # which we hold: others count this in
            return True


def _copies(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each copy was used last, its bytes and its place."""
    for path in folder.glob("*.tar"):
        if _is_copy(path):
            with suppress(FileNotFoundError):  # just removed by the one who wants it anew
                status = path.stat()
                yield status.st_mtime, status.st_size, path


def _is_copy(path: Path) -> bool:
    """Whether a shard was downloaded here: its name is a URL's hash, and it has the lock of that name."""
    return _COPY.fullmatch(path.name) is not None and path.with_suffix(".lock").exists()


def _removed(copy: Path) -> bool:
    """Removes a copy, unless a process is about to give it to its reader."""
    with copy.with_suffix(".lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks here
            pass
        copy.unlink(missing_ok=True)
        return True


def _on_its_way(lock: Path) -> int:
    """Bytes of a shard that another process is downloading, which holds its lock and has written their number there."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(ValueError, OSError):
            copied = lock.with_suffix(".tar")
            return 0 if copied.exists() else int(lock.read_text())
    except OSError:  # no locks here, or the file is gone
        pass
    return 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the system frees when the process ends, however it ends."""
    with path.open("a") as file:  # what its holder has written there stays
        with suppress(OSError):  # a file system without locks: two processes may download one shard
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # not by closing alone: a process that was forked meanwhile holds it open too
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
