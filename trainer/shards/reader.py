"""Sets of tar shards with their indexes: any sample of any shard, read alone and checked.

What is known of every shard before a sample of it is read comes from the index of the set (``shards.index``), where it
has one; the indexes of the shards themselves are read when they are first needed, and only so many are kept.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import ChecksumError
from ..images.geometry import Measured
from . import set_index
from .access.indexes import KeptIndexes, index_of, indexes_of, indexes_there
from .access.shard_files import ShardFiles
from .errors import Kind, SampleError
from .fields import EXTENSIONS
from .index import Member, SampleLocation, ShardIndex
from .packed import layout
from .packed.layout import Array
from .packed.rows import PackedRows
from .patterns import expand, is_remote, without_secrets
from .remote import RemoteConfig, remote_set_index
from .set_index import Making, SetIndex, SetIndexBuilder, agreed_classes, by_folder

_CHUNK = 1024  # indexes on their way at once
LOOKED_AT = 512  # shards of a local set whose every index is read when it is opened


class ShardSet:
    """Some shards, in a fixed order.

    Local sets of at most 512 shards are looked at whole when they are opened: every index is read. Of larger ones, and
    of remote ones, the set's index is believed and a shard that turns out to be another is an error of its samples.

    Can be pickled, and used in forked processes: files are opened where they are read.
    """

    def __init__(self, names: Sequence[str], remote: RemoteConfig, known: SetIndex | None = None) -> None:
        self._remote = remote
        self._indexes = KeptIndexes()
        self.unlisted = 0  # shards whose indexes had to be read because no set's index tells of them
        self._known = self._looked_up(names) if known is None else known
        self.names = self._known.names
        self.files = ShardFiles(self.names, self._known.rows["tar_bytes"], remote)

    def _looked_up(self, names: Sequence[str]) -> SetIndex:
        """What is known of all shards: read in one go where there is an index of the set."""
        builder = SetIndexBuilder(names)
        for folder, shards in by_folder(names).items():
            found = None
            if is_remote(folder):
                found = remote_set_index(folder, self._remote) if names[shards[0]].endswith(".tar") else None
            elif len(names) > LOOKED_AT:
                found = set_index.read(Path(folder))
            if found is not None:
                place_of = {folder + name: place for place, name in enumerate(found.names)}
                listed = [shard for shard in shards if names[shard] in place_of]
                builder.add_rows(listed, found, [place_of[names[shard]] for shard in listed])
        rest = builder.unknown()
        self.unlisted = len(rest)
        for start in range(0, len(rest), _CHUNK):
            chunk = rest[start : start + _CHUNK]
            for shard, index in zip(chunk, indexes_of([names[each] for each in chunk], self._remote), strict=True):
                builder.add(shard, index)
                self._indexes.add(shard, index)
        return builder.whole()

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
        return tuple(self._known.rows["samples"].tolist())

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(self.counts)

    @property
    def least_sides(self) -> npt.NDArray[np.uint32]:
        """(S,) the least side of the images of each shard, in pixels; 0 where none is known."""
        sides: npt.NDArray[np.uint32] = self._known.rows["least_side"]
        return sides

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether two sets hold the same samples in the same order, wherever they lie."""
        return self._hashed("samples", "tar_bytes", "digest")

    @cached_property
    def order(self) -> str:
        """As ``fingerprint``, but blind to the bytes of the samples: it stays when a damaged image is repaired."""
        return self._hashed("samples", "order")

    def _hashed(self, *numbers: str) -> str:
        whole = hashlib.sha256()
        columns = (self._known.rows[number].tolist() for number in numbers)
        for name, *row in zip(self.names, *columns, strict=True):
            whole.update(f"{name[name.rfind('/') + 1 :]} {' '.join(map(str, row))}\n".encode())
        return whole.hexdigest()[:16]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the samples came about, as stored by who wrote them.

        Raises:
            ValueError: shards of the set came about in different ways.
        """
        (_, first), *others = self._known.first_of_each_making()
        for name, making in others:
            if making.provenance != first.provenance:
                raise ValueError(
                    f"{self.names[0]} and {name} were made in different ways: {first.provenance} against "
                    f"{making.provenance}; use shards of one making, or mix them as sources of their own"
                )
        return first.provenance

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers; none where classes are plain numbers.

        Raises:
            ValueError: shards of the set number their classes differently.
        """
        return agreed_classes((name, making.classes) for name, making in self._known.first_of_each_making())

    @property
    def makings(self) -> tuple[Making, ...]:
        """The ways in which samples of the set came about."""
        return self._known.makings

    def classes_of(self, shard: int) -> tuple[str, ...]:
        """Names of the classes of one shard."""
        return self._known.makings[int(self._known.rows["making"][shard])].classes

    def identity(self, shard: int) -> list[int]:
        """Tells whether a shard still holds the same samples: their number, the bytes of the tar, a checksum."""
        row = self._known.rows[shard]
        return [int(row["samples"]), int(row["tar_bytes"]), int(row["digest"])]

    def index(self, shard: int) -> ShardIndex:
        """The index of a shard, without provenance and notes; read if it is not kept.

        Raises:
            OSError: it is not there or cannot be reached.
            ValueError: it is damaged, or not the one of which the set's index tells.
        """
        index = self._indexes.get(shard)
        if index is None:
            index = index_of(self.names[shard], self._remote)
            if not self._known.agrees(shard, index):
                raise ValueError(
                    f"the index of {self.names[shard]} is not the one of which {set_index.NAME} tells; make that again "
                    "with: smalti index --keep FOLDER"
                )
            self._indexes.add(shard, index)
        return index

    def _index_for(self, shard: int, sample: int) -> ShardIndex:
        """The index of a shard of which a sample is wanted; a SampleError where there is none that can be used."""
        try:
            return self.index(shard)
        except (OSError, ValueError) as error:
            kind: Kind = "unreachable" if isinstance(error, OSError) else "unusable index"
            kind = "missing shard" if isinstance(error, FileNotFoundError) else kind
            name, detail = without_secrets(self.names[shard]), without_secrets(str(error))
            raise SampleError(kind, name, f"sample {sample}", detail) from error

    def key(self, shard: int, sample: int) -> str:
        """The key of a sample, as in its file names."""
        return self._index_for(shard, sample).key(sample)

    def has_field(self, field: str) -> bool:
        """Whether the first shard with samples has a field."""
        filled = next((shard for shard, count in enumerate(self.counts) if count), None)
        return filled is not None and bool(set(EXTENSIONS[field]) & set(self.index(filled).extensions))

    def measured(self, shard: int, sample: int) -> Measured:
        """The size of a sample's image."""
        return self._index_for(shard, sample).measured(sample)

    def has(self, shard: int, sample: int, extension: str) -> bool:
        """Whether a sample has a member of this kind."""
        return self._index_for(shard, sample).has(sample, extension)

    def member(self, shard: int, sample: int, extension: str) -> Member:
        """Where a member lies, for reading parts of it with ``read_ranges``.

        Raises:
            SampleError: there is no such member, or the index is damaged.
        """
        try:
            return self._index_for(shard, sample).member(sample, extension)
        except KeyError:
            raise self.sample_error(shard, sample, "missing field", f"it has no .{extension}") from None
        except ValueError as error:
            raise self.sample_error(shard, sample, "damaged member", str(error)) from error

    def read(self, shard: int, sample: int, extension: str) -> bytes:
        """All bytes of a member, checked against the index; of a packed shard, those that it would have.

        Raises:
            SampleError: they are not there, cannot be reached or are not what was packed.
        """
        packed = self._packed_rows(shard, sample)
        if packed is not None and self.has(shard, sample, extension):
            try:
                return packed.file(extension, sample, partial(self.read_ranges, shard, sample))
            except ChecksumError as error:
                raise self.sample_error(shard, sample, "damaged member", str(error)) from error
        member = self.member(shard, sample, extension)
        data = self.read_ranges(shard, sample, [(member.offset, member.size)])[0]
        if zlib.crc32(data) != member.crc:
            raise self.sample_error(
                shard, sample, "damaged member", f".{extension} at byte {member.offset} has a wrong CRC"
            )
        return data

    def read_rows(self, places: Sequence[SampleLocation], names: Iterable[str]) -> dict[str, Array]:
        """(m, ...) the row of each of m samples in some columns of their packed shards, by the columns' names.

        A column is left out where a shard has none of its name, or rows would differ in shape or type.

        Raises:
            SampleError: rows are not there, cannot be reached or are not what was packed.
        """
        rows: list[PackedRows] = []
        for place in places:
            packed = self._packed_rows(*place)
            if packed is None:
                return {}
            rows.append(packed)
        found: dict[str, Array] = {}
        shards = {id(packed): packed for packed in rows}.values()
        for name in names:
            forms = {packed.forms.get(name) for packed in shards}
            if len(forms) > 1 or None in forms:
                continue
            if name in rows[0].small:
                small = [packed.small[name][place[1]] for packed, place in zip(rows, places, strict=True)]
                found[name] = np.array(small, rows[0].columns[name].type)
            else:
                data = [self._row(place, packed, name) for packed, place in zip(rows, places, strict=True)]
                found[name] = rows[0].columns[name].rows(b"".join(data))
        return found

    def _row(self, place: SampleLocation, packed: PackedRows, name: str) -> bytes:
        """The checked bytes of a row of a large column."""
        wanted = packed.place(name, place[1])
        data = self.files.read_open(place[0], *wanted) or self.read_ranges(*place, (wanted,))[0]
        if not packed.is_sound(name, place[1], data):
            raise self.sample_error(*place, "damaged member", packed.damage(name, place[1]))
        return data

    def _packed_rows(self, shard: int, sample: int) -> PackedRows | None:
        """The rows of a shard; None where it is not packed."""
        packed = self._indexes.rows(shard)
        if packed is not None:
            return packed
        index = self._index_for(shard, sample)
        if not index.packed:
            return None
        try:
            packed = PackedRows(index.packed, index.samples, partial(self.read_ranges, shard, sample))
        except ChecksumError as error:
            raise self.sample_error(shard, sample, "damaged member", str(error)) from error
        self._indexes.add_rows(shard, packed)
        return packed

    def read_ranges(self, shard: int, sample: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Stretches (offset, size) of a tar that belong to a sample, unchecked but for their lengths.

        Raises:
            SampleError: they are not there or cannot be reached.
        """
        try:
            found = self.files.read_many(shard, ranges)
        except FileNotFoundError as error:
            raise self.sample_error(shard, sample, "missing shard", str(error)) from error
        except OSError as error:
            raise self.sample_error(shard, sample, "unreachable", str(error)) from error
        for (offset, size), data in zip(ranges, found, strict=True):
            if len(data) < size:
                detail = f"the file ends at byte {offset + len(data)}, {offset + size} are needed"
                raise self.sample_error(shard, sample, "truncated shard", detail)
        return found

    def look_ahead(self, shards: Iterable[int]) -> None:
        """Fetches what has to be known of remote shards of which samples are wanted, of all of them at once.

        What cannot be had is left to the reading of the samples, whose errors it will be.
        """
        kept = set(self._indexes)
        missing = [each for each in dict.fromkeys(shards) if each not in kept and self.files.is_asked(each)]
        found = indexes_there([self.names[each] for each in missing], self._remote) if missing else []
        packed = {}
        for shard, index in zip(missing, found, strict=True):
            if index is not None and self._known.agrees(shard, index):
                self._indexes.add(shard, index)
                if index.packed:
                    packed[shard] = index.packed
        self.files.gather({shard: layout.small_ranges(packed[shard], self.counts[shard]) for shard in packed})
        for shard in packed:
            with suppress(SampleError):
                self._packed_rows(shard, 0)

    def stretches(self, shard: int, sample: int, extension: str) -> list[tuple[int, int]]:
        """(offset, size) of the bytes in the tar that a file of a sample is read from; none where it is in memory.

        Raises:
            SampleError: there is no such file.
        """
        packed = self._packed_rows(shard, sample)
        if packed is not None:
            return [packed.place(name, sample) for name in layout.columns_behind(extension) if name not in packed.small]
        member = self.member(shard, sample, extension)
        return [(member.offset, member.size)]

    def may_be_better(self, error: SampleError, shard: int) -> bool:
        """Whether reading a sample once more may end well: wrong bytes came, and over a network."""
        return error.kind in ("damaged member", "truncated shard") and is_remote(self.names[shard])

    def sample_error(self, shard: int, sample: int, kind: Kind, detail: str) -> SampleError:
        """An error of a sample of this set, to be raised."""
        return SampleError(kind, without_secrets(self.names[shard]), self.key(shard, sample), without_secrets(detail))

    def __reduce__(self) -> tuple[type["ShardSet"], tuple[Any, ...]]:
        return ShardSet, (self.names, self._remote, self._known)
