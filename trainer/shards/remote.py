"""Shards that do not lie on this machine: URLs that fsspec knows, and the output of commands (``pipe:``)."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import fsspec

from ...models.bounds import Name, Positive, check_ranges
from ..files import write_whole
from . import set_index
from .byte_ranges import LocalFile, Ranges
from .cache import ShardCache
from .index import SUFFIX, ShardIndex
from .patterns import without_secrets
from .scan import scan
from .set_index import SetIndex

_PIPE = "pipe:"
_PAUSES = (0.5, 1.0, 2.0)  # seconds between attempts; a store that is busy answers soon
_GAP = 256 * 1024  # bytes; nearer stretches are fetched together, which costs less than another request
_CHUNK = 1 << 20
_TIMES = 5  # that a shard may be gone from the cache when it is wanted
_SECONDS = 3600  # for a command; one that never ends must not hold up the run for ever

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteConfig:
    """How shards are read that lie elsewhere.

    Attributes:
        fetch: "ranges" reads only the bytes of each sample, where the store can do that; "shards" brings whole shards
            to the local cache, which suits small samples read with a small ``shuffle_window``.
        cache: folder for whole shards and for indexes that had to be made.
        cache_gigabytes: room for whole shards; the one used longest ago goes first.
    """

    fetch: Literal["ranges", "shards"] = "ranges"
    cache: Name = "~/.cache/smalti"
    cache_gigabytes: Positive = 50.0

    def __post_init__(self) -> None:
        check_ranges(self)

    def shard_cache(self) -> ShardCache:
        """The cache."""
        return ShardCache(Path(self.cache).expanduser(), int(self.cache_gigabytes * 1e9))


class RemoteFile:
    """A file that can be read in parts through fsspec. May be used after a fork: it connects anew."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connect()

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), near ones fetched together; fewer than asked only where the file ends."""
        if os.getpid() != self._process:
            self._connect()
        spans = _merged(ranges)
        found = _patiently(lambda: self._fetch(spans))
        starts = [start for start, _ in spans]
        parts = []
        for offset, size in ranges:
            place = max(i for i, start in enumerate(starts) if start <= offset)
            begin = offset - starts[place]
            parts.append(found[place][begin : begin + size])
        return parts

    def close(self) -> None:
        """Nothing is held open."""

    def gives_ranges(self) -> bool:
        """Whether the store sends parts; some web servers send the whole file whatever they are asked for."""
        return len(_patiently(lambda: self._fetch([(0, 16)]))[0]) <= 16

    def _connect(self) -> None:
        self._process = os.getpid()
        self._system, self._path = fsspec.core.url_to_fs(self._url)

    def _fetch(self, spans: list[tuple[int, int]]) -> list[bytes]:
        starts = [start for start, _ in spans]
        ends = [end for _, end in spans]
        found: list[bytes] = self._system.cat_ranges([self._path] * len(spans), starts, ends, on_error="raise")
        return found


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


def fetched_whole(url: str, config: RemoteConfig) -> bool:
    """Whether a remote shard goes through the local cache in any case."""
    return url.startswith(_PIPE) or config.fetch == "shards"


def open_remote(url: str, tar_bytes: int, config: RemoteConfig) -> Ranges:
    """A remote shard to read from: in parts where that is possible and wanted, else through the cache.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be reached.
    """
    if not fetched_whole(url, config):
        file = RemoteFile(url)
        if file.gives_ranges():
            return file
    return CachedShard(lambda: config.shard_cache().get(url, tar_bytes, _download(url)))


def remote_index(url: str, config: RemoteConfig) -> ShardIndex:
    """The index of a remote shard: the one beside it, else one that is made of the whole shard and kept in the cache.

    Raises:
        FileNotFoundError: there is neither.
        OSError: they cannot be reached.
        ValueError: the index or the tar is damaged.
    """
    beside = _index_url(url)
    data = _patiently(lambda: _all_bytes(beside)) if beside else None
    if data is not None:
        return ShardIndex(data, beside)
    cache = config.shard_cache()
    made = cache.path(url).with_suffix(".idx")
    with suppress(FileNotFoundError, ValueError):  # it is not there, or damaged
        return ShardIndex.read(made)
    copy = cache.get(url, 0, _download(url))
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
        data = _all_bytes(folder + set_index.NAME)
    except Exception:  # stores say in many ways that they have no such file; the shards' own indexes do as well
        return None
    known = data is not None and data.startswith(set_index.MARK)
    return SetIndex.parsed(data, without_secrets(folder) + set_index.NAME) if data is not None and known else None


def _index_url(url: str) -> str:
    """Where the index of a shard should lie; of a command, the command that would give it."""
    if not url.startswith(_PIPE):
        return url + SUFFIX
    words = url.split()
    named = [place for place, word in enumerate(words) if word.endswith(".tar")]
    if len(named) != 1:
        return ""
    words[named[0]] += SUFFIX
    return " ".join(words)


def _all_bytes(url: str) -> bytes | None:
    """The bytes of a small file, or None if it is not there."""
    if url.startswith(_PIPE):
        done = subprocess.run(url.removeprefix(_PIPE), shell=True, capture_output=True, timeout=_SECONDS)
        return done.stdout if done.returncode == 0 and done.stdout else None
    system, path = fsspec.core.url_to_fs(url)
    try:
        data: bytes = system.cat_file(path)
    except FileNotFoundError:
        return None
    return data


def _download(url: str) -> Callable[[BinaryIO], None]:
    """What writes a whole shard into a file."""

    def from_command(file: BinaryIO) -> None:
        command = url.removeprefix(_PIPE)
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

        _patiently(copy)

    return from_command if url.startswith(_PIPE) else from_store


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches (start, end) that hold all ranges (offset, size), near ones in one."""
    spans: list[tuple[int, int]] = []
    for offset, size in sorted(ranges):
        if spans and offset - spans[-1][1] <= _GAP:
            spans[-1] = spans[-1][0], max(spans[-1][1], offset + size)
        else:
            spans.append((offset, offset + size))
    return spans


def _patiently(action: Callable[[], T]) -> T:
    """Does something that may fail for a moment; what is not there is not asked for again."""
    for pause in _PAUSES:
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception:  # each store has errors of its own
            time.sleep(pause)
    try:
        return action()
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
