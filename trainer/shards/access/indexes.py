"""The indexes of shards, wherever these lie, and the few that a process keeps."""

import shlex
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..index import SUFFIX, ShardIndex
from ..packed.rows import PackedRows
from ..patterns import is_remote, without_secrets
from ..remote import RemoteConfig, remote_index

_REQUESTS = 16  # at once
_KEPT = 256 << 20  # bytes of indexes that a process keeps


class KeptIndexes:
    """Indexes that are in memory, with the small columns of packed shards; those used longest ago go first."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()
        self._packed: dict[int, PackedRows] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[int]:
        return iter(self._indexes)

    def __len__(self) -> int:
        return len(self._indexes)

    def get(self, shard: int) -> ShardIndex | None:
        """The index of a shard, if it is here."""
        index = self._indexes.get(shard)
        if index is not None:
            self._indexes.move_to_end(shard)
        return index

    def rows(self, shard: int) -> PackedRows | None:
        """The rows of a packed shard, if they are here."""
        return self._packed.get(shard)

    def add(self, shard: int, index: ShardIndex) -> None:
        """Keeps an index, without the texts that all shards share."""
        index.provenance, index.notes = {}, {}
        self._indexes[shard] = index
        self._bytes += index.nbytes
        while self._bytes > _KEPT and len(self._indexes) > 1:
            gone, old = self._indexes.popitem(last=False)
            packed = self._packed.pop(gone, None)
            self._bytes -= old.nbytes + (packed.nbytes if packed else 0)

    def add_rows(self, shard: int, packed: PackedRows) -> None:
        """Keeps the rows of a packed shard whose index is here."""
        self._packed[shard] = packed
        self._bytes += packed.nbytes


def indexes_of(names: Sequence[str], remote: RemoteConfig) -> Iterator[ShardIndex]:
    """The indexes of some shards, several asked for at once: each may be a request to a distant store.

    Raises:
        What ``index_of`` raises.
    """
    with ThreadPoolExecutor(_REQUESTS) as pool:
        yield from pool.map(partial(index_of, remote=remote), names)


def indexes_there(names: Sequence[str], remote: RemoteConfig) -> list[ShardIndex | None]:
    """As ``indexes_of``, with None for each that cannot be had."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(partial(_index_or_none, remote=remote), names))


def _index_or_none(name: str, remote: RemoteConfig) -> ShardIndex | None:
    with suppress(OSError, ValueError):
        return index_of(name, remote)
    return None


def index_of(name: str, remote: RemoteConfig) -> ShardIndex:
    """The index of one shard.

    Raises:
        FileNotFoundError: there is no such shard, or it has no index.
        OSError: it cannot be reached.
        ValueError: the index is damaged, or the tar has grown.
    """
    if is_remote(name):
        try:
            return remote_index(name, remote)
        except (FileNotFoundError, OSError, ValueError) as error:
            kind = next(kind for kind in (FileNotFoundError, OSError, ValueError) if isinstance(error, kind))
            raise kind(without_secrets(str(error))) from None  # stores name the whole URL
    path = Path(name + SUFFIX)
    try:
        return _of_the_whole(ShardIndex.read(path), name)
    except FileNotFoundError:
        if Path(name).exists():
            raise FileNotFoundError(f"{name} has no index; make one with: smalti index {shlex.quote(name)}") from None
        raise FileNotFoundError(f"there is no shard {name}, and no index {path} of one") from None


def _of_the_whole(index: ShardIndex, name: str) -> ShardIndex:
    """The index, unless its tar has grown: what is new would be lost. (What is gone or cut off is a counted error.)"""
    tar = Path(name)
    tar_bytes = tar.stat().st_size if tar.exists() else 0
    if tar_bytes > index.tar_bytes:
        raise ValueError(
            f"{name} has grown from {index.tar_bytes} to {tar_bytes} bytes since it was indexed; index it again with: "
            f"smalti index {shlex.quote(name)}"
        )
    return index
