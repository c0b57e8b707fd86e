"""Shards that do not lie on this machine: URLs that fsspec knows, and the output of commands (``pipe:``)."""

import os
import subprocess
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import fsspec

from ...models.bounds import Name, Positive, check_ranges
from ..files import write_whole
from . import set_index
from .access.requests import Stretch, fetch, merged, patiently
from .byte_ranges import LocalFile, Ranges
from .cache import ShardCache
from .index import SUFFIX, ShardIndex
from .patterns import without_secrets
from .scan import scan
from .set_index import SetIndex

PIPE = "pipe:"
_CHUNK = 1 << 20
_GIVES_RANGES: dict[str, bool] = {}  # what is known of stores, by scheme and host
_HEAD = 1 << 16  # bytes
_TIMES = 5  # that a shard may be gone from the cache when it is wanted
_SECONDS = 3600  # for a command; one that never ends must not hold up the run for ever


@dataclass(frozen=True)
class RemoteConfig:
    """How shards are read that lie elsewhere.

    Attributes:
        fetch: "ranges" reads only the bytes of each sample, where the store can do that; "shards" brings whole shards
            to the local cache, which suits small samples read with a small ``shuffle_window``; "stream" reads shards
            from beginning to end and needs no index, wherever they lie.
        cache: folder for whole shards and for indexes that had to be made.
        cache_gigabytes: room for whole shards; the one used longest ago goes first.
        timeout: seconds that an answer of a store may take before it is asked again.
    """

    fetch: Literal["ranges", "shards", "stream"] = "ranges"
    cache: Name = "~/.cache/smalti"
    cache_gigabytes: Positive = 50.0
    timeout: Positive = 60.0

    def __post_init__(self) -> None:
        check_ranges(self)

    def shard_cache(self) -> ShardCache:
        """The cache."""
        return ShardCache(Path(self.cache).expanduser(), int(self.cache_gigabytes * 1e9))


class RemoteFile:
    """A file that can be read in parts through fsspec. May be used after a fork: it connects anew.

    Args:
        url: of the file.
        seconds: that one answer may take.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._process = 0

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), near ones fetched together; fewer than asked only where the file ends."""
        found = []
        for answer in fetch(self.system, self.stretches(ranges), self._seconds):
            if isinstance(answer, Exception):
                raise answer
            found.append(answer)
        return parts_of(merged(ranges), found, ranges)

    def stretches(self, ranges: Sequence[tuple[int, int]]) -> list[Stretch]:
        """What is to be fetched to have all ranges (offset, size)."""
        self._connect()
        return [Stretch(self._path, start, end) for start, end in merged(ranges)]

    @property
    def system(self) -> Any:
        """The file system of fsspec that it lies in."""
        self._connect()
        return self._system

    def size(self) -> int | None:
        """Its bytes, if the store says."""
        size: int | None = self.system.size(self._path)
        return size

    def close(self) -> None:
        """Nothing is held open."""

    def renew(self) -> None:
        """Nothing is kept that could be wrong."""

    def gives_ranges(self) -> bool:
        """Whether the store sends parts; some web servers send the whole file whatever they are asked for."""
        store = "/".join(self._url.split("/")[:3])
        if store not in _GIVES_RANGES:
            self._connect()
            first: bytes = patiently(lambda: self._system.cat_file(self._path, start=0, end=16))
            _GIVES_RANGES[store] = len(first) <= 16
        return _GIVES_RANGES[store]

    def _connect(self) -> None:
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._system, self._path = fsspec.core.url_to_fs(self._url)


def parts_of(
    spans: Sequence[tuple[int, int]], found: Sequence[bytes], ranges: Sequence[tuple[int, int]]
) -> list[bytes]:
    """The bytes of each range (offset, size) out of those of the stretches (start, end) that hold all ranges."""
    parts = []
    starts = [start for start, _ in spans]
    for offset, size in ranges:
        place = bisect_right(starts, offset) - 1
        begin = offset - starts[place]
        parts.append(found[place][begin : begin + size])
    return parts


class CachedShard:
    """A shard in the local cache. Opened for each reading alone: what is open keeps its room when it is removed.

    Args:
        fetch: brings it to the cache, where it is not there any more, and gives its place.
    """

    def __init__(self, fetch: Callable[[], Path]) -> None:
        self._fetch = fetch
        self._path = fetch()

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), in order; fewer than ``size`` only where the file ends."""
        for _ in range(_TIMES):
            try:
                file = LocalFile(str(self._path))
            except FileNotFoundError:  # another process needed the room
                self._path = self._fetch()
                continue
            with suppress(FileNotFoundError):  # it may be removed now, and is read to the end all the same
                os.utime(self._path)  # others go first
            try:
                return file.read_many(ranges)
            finally:
                file.close()
        raise OSError(
            f"{self._path.parent} has lost a shard {_TIMES} times before it was read; raise cache_gigabytes, or lower "
            "shuffle_window or num_workers"
        )

    def close(self) -> None:
        """Nothing is held open."""

    def renew(self) -> None:
        """Removes the copy, whose bytes are not those that were packed, so that it is fetched again."""
        self._path.unlink(missing_ok=True)


def fetched_whole(url: str, config: RemoteConfig) -> bool:
    """Whether a remote shard goes through the local cache in any case."""
    return url.startswith(PIPE) or config.fetch == "shards"


def open_remote(url: str, tar_bytes: int, config: RemoteConfig) -> Ranges:
    """A remote shard to read from: in parts where that is possible and wanted, else through the cache.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be reached.
    """
    if not fetched_whole(url, config):
        file = RemoteFile(url, config.timeout)
        if file.gives_ranges():
            return file
    return CachedShard(lambda: bring(url, tar_bytes, config))


def bring(url: str, tar_bytes: int, config: RemoteConfig) -> Path:
    """The copy of a shard in the local cache, fetched if it is not there.

    Args:
        tar_bytes: of the shard, as its index says; 0 if that is not known yet.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be reached, or has another size.
        ValueError: it is larger than the cache.
    """
    return config.shard_cache().get(url, tar_bytes, _download(url, tar_bytes))


def remote_index(url: str, config: RemoteConfig) -> ShardIndex:
    """The index of a remote shard: the one beside it, else one that is made of the whole shard and kept in the cache.

    Raises:
        FileNotFoundError: there is neither.
        OSError: they cannot be reached.
        ValueError: the index or the tar is damaged.
    """
    beside = _index_url(url)
    data = patiently(lambda: _all_bytes(beside)) if beside else None
    if data is not None:
        return ShardIndex(data, beside)
    cache = config.shard_cache()
    made = cache.path(url).with_suffix(".idx")
    with suppress(FileNotFoundError, ValueError):  # it is not there, or damaged
        return ShardIndex.read(made)
    copy = bring(url, 0, config)
    try:
        write_whole(made, scan(copy).to_bytes())
    except ValueError:
        copy.unlink(missing_ok=True)  # a download that was cut is fetched again by the next start
        raise
    return ShardIndex.read(made)


def remote_set_index(folder: str, config: RemoteConfig) -> SetIndex | None:
    """The index of a set of remote shards that lie in one folder, if there is one that can be had.

    Args:
        folder: what stands before the last slash of their names, in a URL or in a command.

    Raises:
        ValueError: it is damaged.
    """
    try:
        data = _once_a_machine(folder + set_index.NAME, config)
    except Exception:  # stores say in many ways that they have no such file; the shards' own indexes do as well
        return None
    known = data is not None and data.startswith(set_index.MARK)
    return SetIndex.parsed(data, without_secrets(folder) + set_index.NAME) if data is not None and known else None


def _once_a_machine(url: str, config: RemoteConfig) -> bytes | None:
    """The bytes of a file that may be large, which one process fetches for all of this machine; None if it is missing.

    Its beginning, which holds the checksum of the rest, is asked for by each, and tells whether a copy is current.
    """
    if url.startswith(PIPE):
        return _all_bytes(url)
    system, path = fsspec.core.url_to_fs(url)
    head: bytes = system.cat_file(path, start=0, end=_HEAD)
    if len(head) != _HEAD:
        return head  # all of it
    fetched = partial(system.cat_file, path)
    return config.shard_cache().one_copy(url, lambda data: data.startswith(head), fetched)


def _index_url(url: str) -> str:
    """Where the index of a shard should lie; of a command, the command that would give it."""
    if not url.startswith(PIPE):
        return url + SUFFIX
    words = url.split()
    named = [place for place, word in enumerate(words) if word.endswith(".tar")]
    if len(named) != 1:
        return ""
    words[named[0]] += SUFFIX
    return " ".join(words)


def _all_bytes(url: str) -> bytes | None:
    """The bytes of a small file, or None if it is not there."""
    if url.startswith(PIPE):
        done = subprocess.run(url.removeprefix(PIPE), shell=True, capture_output=True, timeout=_SECONDS)
        return done.stdout if done.returncode == 0 and done.stdout else None
    system, path = fsspec.core.url_to_fs(url)
    try:
        data: bytes = system.cat_file(path)
    except FileNotFoundError:
        return None
    return data


def _download(url: str, size: int) -> Callable[[BinaryIO], None]:
    """What writes a whole shard of so many bytes into a file; 0 if that is not known yet."""

    def from_command(file: BinaryIO) -> None:
        command = url.removeprefix(PIPE)
        try:
            done = subprocess.run(command, shell=True, stdout=file, stderr=subprocess.PIPE, timeout=_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"the command {command!r} did not end in {_SECONDS} s") from error
        file.seek(0, os.SEEK_END)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-200:]
            raise OSError(f"the command {command!r} ended with status {done.returncode}: {said}")

    def from_store(file: BinaryIO) -> None:
        def copy() -> None:
            file.seek(0)
            file.truncate()
            with fsspec.open(url, "rb") as source:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
            if size and file.tell() != size:
                raise OSError(f"{file.tell()} bytes came, of {size} that its index says")

        patiently(copy)

    return from_command if url.startswith(PIPE) else from_store
