"""Sets of tar shards with their indexes: any sample of any shard, read alone and checked."""

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..images.geometry import Measured
from .byte_ranges import LocalFile, Ranges
from .errors import Kind, SampleError
from .index import SUFFIX, Member, ShardIndex
from .patterns import expand, is_remote, without_secrets
from .remote import RemoteConfig, open_remote, remote_index

_REQUESTS = 16  # at once
_OPEN_FILES = 64  # a process; far below the usual limit of 1024


class ShardSet:
    """Some shards, in a fixed order.

    Can be pickled and used in forked processes: files are opened where they are read.
    """

    def __init__(self, names: Sequence[str], remote: RemoteConfig) -> None:
        self.names = tuple(names)
        self._remote = remote
        with ThreadPoolExecutor(_REQUESTS) as pool:  # each may be a request to a distant store
            self._indexes = tuple(pool.map(partial(_index_of, remote=remote), names))
        self._files: OrderedDict[int, Ranges] = OrderedDict()

    @classmethod
    def open(cls, patterns: Iterable[str], remote: RemoteConfig | None = None) -> "ShardSet":
        """The shards that patterns name.

        Args:
            patterns: folders, files, wildcards (``data/*.tar``), brace patterns (``data-{000..127}.tar``), URLs that
                fsspec knows, or ``pipe:`` and a command; braces work in all of them.
            remote: how those that lie elsewhere are read.

        Raises:
            FileNotFoundError: nothing is there, or a shard has no index.
            ValueError: a shard is named twice, or an index is damaged.
        """
        return cls(expand([patterns] if isinstance(patterns, str) else patterns), remote or RemoteConfig())

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Samples of each shard."""
        return tuple(index.samples for index in self._indexes)

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(self.counts)

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether two sets hold the same samples in the same order, wherever they lie."""
        whole = hashlib.sha256()
        for name, index in zip(self.names, self._indexes, strict=True):
            whole.update(f"{Path(name).name} {index.samples} {index.tar_bytes} {index.digest}\n".encode())
        return whole.hexdigest()[:16]

    @cached_property
    def order(self) -> str:
        """As ``fingerprint``, but blind to the bytes of the samples: it stays when a damaged image is repaired."""
        whole = hashlib.sha256()
        for name, index in zip(self.names, self._indexes, strict=True):
            whole.update(f"{Path(name).name} {index.samples} {index.order_checksum}\n".encode())
        return whole.hexdigest()[:16]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the samples came about, as stored by who wrote them.

        Raises:
            ValueError: shards of the set came about in different ways.
        """
        first = self._indexes[0].provenance
        for name, index in zip(self.names, self._indexes, strict=True):
            if index.provenance != first:
                raise ValueError(
                    f"{self.names[0]} and {name} were made in different ways: {first} against {index.provenance}; "
                    "use shards of one making, or mix them as sources of their own"
                )
        return first

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers; none where classes are plain numbers.

        Raises:
            ValueError: shards of the set number their classes differently.
        """
        return agreed_classes((name, index.classes) for name, index in zip(self.names, self._indexes, strict=True))

    def indexes(self) -> tuple[ShardIndex, ...]:
        """The index of each shard."""
        return self._indexes

    def key(self, shard: int, sample: int) -> str:
        """The key of a sample, as in its file names."""
        return self._indexes[shard].key(sample)

    def measured(self, shard: int, sample: int) -> Measured:
        """The size of a sample's image."""
        return self._indexes[shard].measured(sample)

    def has(self, shard: int, sample: int, extension: str) -> bool:
        """Whether a sample has a member of this kind."""
        return self._indexes[shard].has(sample, extension)

    def member(self, shard: int, sample: int, extension: str) -> Member:
        """Where a member lies, for reading parts of it with ``read_ranges``.

        Raises:
            SampleError: there is no such member, or the index is damaged.
        """
        try:
            return self._indexes[shard].member(sample, extension)
        except KeyError:
            raise self.sample_error(shard, sample, "missing field", f"it has no .{extension}") from None
        except ValueError as error:
            raise self.sample_error(shard, sample, "damaged member", str(error)) from error

    def read(self, shard: int, sample: int, extension: str) -> bytes:
        """All bytes of a member, checked against the index.

        Raises:
            SampleError: they are not there, cannot be reached or are not what was packed.
        """
        member = self.member(shard, sample, extension)
        data = self.read_ranges(shard, sample, [(member.offset, member.size)])[0]
        if zlib.crc32(data) != member.crc:
            raise self.sample_error(
                shard, sample, "damaged member", f".{extension} at byte {member.offset} has a wrong CRC"
            )
        return data

    def read_ranges(self, shard: int, sample: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Stretches (offset, size) of a tar that belong to a sample, unchecked but for their lengths.

        Raises:
            SampleError: they are not there or cannot be reached.
        """
        try:
            found = self._file(shard).read_many(ranges)
        except FileNotFoundError as error:
            raise self.sample_error(shard, sample, "missing shard", str(error)) from error
        except OSError as error:
            raise self.sample_error(shard, sample, "unreachable", str(error)) from error
        for (offset, size), data in zip(ranges, found, strict=True):
            if len(data) < size:
                detail = f"the file ends at byte {offset + len(data)}, {offset + size} are needed"
                raise self.sample_error(shard, sample, "truncated shard", detail)
        return found

    def sample_error(self, shard: int, sample: int, kind: Kind, detail: str) -> SampleError:
        """An error of a sample of this set, to be raised."""
        return SampleError(kind, without_secrets(self.names[shard]), self.key(shard, sample), without_secrets(detail))

    def _file(self, shard: int) -> Ranges:
        file = self._files.get(shard)
        if file is None:
            name = self.names[shard]
            tar_bytes = self._indexes[shard].tar_bytes
            file = open_remote(name, tar_bytes, self._remote) if is_remote(name) else LocalFile(name)
            self._files[shard] = file
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return file

    def __reduce__(self) -> tuple[type["ShardSet"], tuple[Any, ...]]:
        return ShardSet, (self.names, self._remote)


def agreed_classes(named: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers, as all shards have them that have names.

    Args:
        named: what holds samples, and the names of its classes; one may know more of them than another.

    Raises:
        ValueError: a number has two names.
    """
    first, agreed = "", tuple[str, ...]()
    for shard, classes in named:
        for number, (one, other) in enumerate(zip(agreed, classes, strict=False)):
            if one != other:
                raise ValueError(
                    f"class {number} is {one!r} in {first} and {other!r} in {shard}; pack them again together (smalti "
                    "pack --val N), or the second with --classes and the folder of the first"
                )
        if len(classes) > len(agreed):
            first, agreed = shard, classes
    return agreed


def _index_of(name: str, remote: RemoteConfig) -> ShardIndex:
    """The index of one shard."""
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
            raise FileNotFoundError(f"{name} has no index; make one with: smalti index {name}") from None
        raise FileNotFoundError(f"there is no shard {name}, and no index {path} of one") from None


def _of_the_whole(index: ShardIndex, name: str) -> ShardIndex:
    """The index, unless its tar has grown: what is new would be lost. (What is gone or cut off is a counted error.)"""
    tar = Path(name)
    tar_bytes = tar.stat().st_size if tar.exists() else 0
    if tar_bytes > index.tar_bytes:
        raise ValueError(
            f"{name} has grown from {index.tar_bytes} to {tar_bytes} bytes since it was indexed; index it again with: "
            f"smalti index {name}"
        )
    return index
