"""Writing shards that are whole or not there, so that a killed writer can be started again."""

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..files import part_of, whole_file, write_whole
from ..images.geometry import Measured
from . import set_index
from .index import SUFFIX, Member, Row, ShardIndex, check_replaceable, index_bytes
from .packed import layout
from .packed.layout import Column

_BLOCK = tarfile.BLOCKSIZE


class Sample(NamedTuple):
    """What goes into a shard under one key."""

    key: str  # its name; no dot after the last slash, for WebDataset ends it there
    members: Mapping[str, bytes]  # by extension: {"jpg": ..., "json": ...}
    measured: Measured = Measured(0, 0)  # of its image
    layouts: Mapping[str, bytes] = {}  # by extension, for members that can be read in parts


def write_shard(
    path: Path,
    samples: Iterable[Sample],
    provenance: Mapping[str, Any],
    notes: Mapping[str, Any] | None = None,
    packed: bool = False,
) -> int:
    """Writes one tar in the conventions of WebDataset and, last, its index; gives the number of samples.

    The index is written first, and the tar gets its name last: a process killed at any moment leaves no tar or a whole
    shard, and a tar without an index was written by somebody else. Equal samples give equal bytes.

    Args:
        path: of the tar; the index lies beside it with ``.idx`` appended.
        provenance: how the samples came about, as JSON; equal in all shards of one making.
        notes: what concerns this shard alone, as JSON; may be filled while the samples are drawn.
        packed: writes samples of codes as rows of arrays, where they fit; they are held in memory until then.

    Raises:
        ValueError: two samples have one key, or another program's tar has the name.
    """
    own_shard(path)
    notes = {} if notes is None else notes
    columns: list[Column] = []
    with whole_file(path) as file:
        if packed:
            samples = list(_of_different_keys(samples, path))
            arrays = layout.columns_of([sample.members for sample in samples])
            columns = _append_arrays(file, path.stem, [sample.key for sample in samples], arrays or {})
        if columns:
            rows = [Row(sample.key, {}) for sample in samples]
        else:
            rows = [_appended(file, sample) for sample in _of_different_keys(samples, path)]
        file.write(bytes(2 * _BLOCK))  # the end of an archive
        if path.exists():  # a shard of ours that is written again: no tar ever lies beside another's index
            set_index.remove(path.parent)
            path.unlink()
        write_whole(index_path(path), index_bytes(rows, file.tell(), provenance, notes, columns))
    return len(rows)


def index_path(shard: Path) -> Path:
    """Where the index of a tar lies."""
    return shard.with_name(shard.name + SUFFIX)


def remove_unfinished(shards: Iterable[Path]) -> None:
    """Remove what killed processes left of shards that are finished now; nobody else's file has such a name."""
    for shard in shards:
        for path in (shard, index_path(shard)):
            part_of(path).unlink(missing_ok=True)


def finished(path: Path) -> ShardIndex | None:
    """The index of a shard that was written to its end, or None."""
    try:
        index = ShardIndex.read(index_path(path))
    except (FileNotFoundError, ValueError):
        return None
    return index if path.exists() and path.stat().st_size == index.tar_bytes else None


def own_shard(path: Path) -> ShardIndex | None:
    """The index of a shard that was written here; None where no tar has the name.

    Raises:
        ValueError: a tar has the name and no index of ours, or an index has it that is not ours, so that it must not
            be replaced.
    """
    there = path.exists()  # before its index is read: a tar that another rank finishes meanwhile has one
    index = finished(path)
    check_replaceable(index_path(path))
    if index is None and there:
        raise ValueError(
            f"{path} is there and has no index that fits it, so it was not written by this command; move it away, or "
            "write to another folder"
        )
    return index


class ShardWriter:
    """Writes samples into numbered shards: ``PREFIX-000000.tar``, ``PREFIX-000001.tar``, ...

    Started again after a kill, it finds the shards that are complete: give it only the samples from number
    ``writer.samples_done`` on. One writer a prefix; ranks that write beside each other take prefixes of their own.

    Args:
        folder: is made if missing.
        prefix: of the file names.
        samples_per_shard: every shard but the last holds so many.
        provenance: how the samples came about, as JSON.

    Raises:
        ValueError: the folder holds shards of this prefix with another provenance, or filled to another size.
    """

    def __init__(self, folder: Path | str, prefix: str, samples_per_shard: int, provenance: Mapping[str, Any]) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
        self._folder = Path(folder)
        self._prefix = prefix
        self._capacity = samples_per_shard
        self._provenance = json.loads(json.dumps(dict(provenance)))
        self._pending: list[Sample] = []
        self._shards_done = 0
        self.samples_done = 0
        self._find_finished()

    def write(self, key: str, members: Mapping[str, bytes], measured: Measured | None = None) -> None:
        """Adds a sample; the shard is written when it is full. Extensions may have dots: ``segmentation_codes.npy``."""
        self._pending.append(Sample(key, dict(members), measured or Measured(0, 0)))
        if len(self._pending) == self._capacity:
            self._flush()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._pending:
            self._flush()
        if kind is None and self._shards_done:
            set_index.write(self._folder)

    def _flush(self) -> None:
        self.samples_done += write_shard(self._path(self._shards_done), self._pending, self._provenance)
        self._shards_done += 1
        self._pending = []

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}-{number:06d}.tar"

    def _find_finished(self) -> None:
        while (index := own_shard(self._path(self._shards_done))) is not None:
            path = self._path(self._shards_done)
            if index.provenance != self._provenance:
                raise ValueError(
                    f"{path} was made as {index.provenance}, not as {self._provenance}; write to another folder"
                )
            if index.samples > self._capacity:
                raise ValueError(f"{path} holds {index.samples} samples, not {self._capacity}; write to another folder")
            if index.samples < self._capacity:
                return  # the last shard of a run that ended: written again, for more samples may follow
            self.samples_done += index.samples
            self._shards_done += 1


def _of_different_keys(samples: Iterable[Sample], path: Path) -> Iterator[Sample]:
    keys: set[str] = set()
    for sample in samples:
        if sample.key in keys:
            raise ValueError(f"two samples for {path} have the key {sample.key!r}; keys must differ")
        keys.add(sample.key)
        yield sample


def _appended(file: BinaryIO, sample: Sample) -> Row:
    """Adds a file for each member of a sample to an open tar."""
    members = {
        extension: _append(file, f"{sample.key}.{extension}", data, sample.layouts.get(extension, b""))
        for extension, data in sample.members.items()
    }
    return Row(sample.key, members, sample.measured)


def _append_arrays(file: BinaryIO, stem: str, keys: Sequence[str], arrays: Mapping[str, layout.Array]) -> list[Column]:
    """Adds the columns of all samples to an open tar, small ones first, so that they can be read in one piece."""
    if not arrays:
        return []
    said = json.dumps({"format": layout.FORMAT, "keys": list(keys)}).encode()
    _append(file, f"{stem}.{layout.KEYS}", said, b"")
    large = [name for name, array in arrays.items() if layout.is_checked_by_row(array.nbytes, len(keys))]
    crcs = {name + layout.CHECKSUM: np.array([zlib.crc32(row) for row in arrays[name]], "<u4") for name in large}
    small = {name: array for name, array in arrays.items() if name not in large}
    columns = []
    for name, array in (*small.items(), *crcs.items(), *((name, arrays[name]) for name in large)):
        packed = io.BytesIO()
        np.save(packed, array)
        member = _append(file, f"{stem}.{name}.npy", packed.getvalue(), b"")
        begin = member.offset + member.size - array.nbytes
        columns.append(Column(name, array.dtype.str, array.shape[1:], begin, zlib.crc32(array.data)))
    return columns


def _append(file: BinaryIO, name: str, data: bytes, layout: bytes) -> Member:
    """Adds one file to an open tar."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    file.write(entry.tobuf(tarfile.GNU_FORMAT))
    member = Member(file.tell(), len(data), zlib.crc32(data), layout)
    file.write(data)
    file.write(bytes(-len(data) % _BLOCK))
    return member
