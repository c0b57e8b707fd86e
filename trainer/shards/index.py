"""The index of a shard: the place, size and checksum of every member, and the size of every image.

The file ``x.tar.idx`` lies beside ``x.tar``. It is a line that names the format and the checksum of the next, a line of
JSON, then plain little-endian columns that are never parsed. Indexes of the first format, whose arrays were four times
as large, are read as well; both give equal fingerprints.

Shapes: N samples, F kinds of members (``jpg``, ``segmentation.png``, ...).
"""

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import bounded_json
from ..files import open_regular, read_regular
from ..images.geometry import Measured
from . import columns
from .packed import layout
from .packed.layout import Column


class SampleLocation(NamedTuple):
    """Where a sample lies: a shard of a set, and a sample of that shard."""

    shard: int
    sample: int


_MARK = b"smalti shard index "
_FIRST = _MARK + b"1 "
_FORMAT = _MARK + b"2 "
SUFFIX = ".idx"
_LARGEST = 1 << 33  # bytes of an index


class Member(NamedTuple):
    """One file inside a tar."""

    offset: int  # of its first byte in the tar
    size: int  # in bytes
    crc: int  # CRC-32 of its bytes
    layout: bytes = b""  # how parts of it can be read alone; only the codec that wrote it reads this


class Row(NamedTuple):
    """One sample as it is written into an index."""

    key: str
    members: Mapping[str, Member]
    measured: Measured = Measured(0, 0)


def check_replaceable(path: Path, mark: bytes = _MARK) -> None:
    """Makes sure that an index that is to be written takes no other program's place; a damaged one of ours it may.

    Raises:
        ValueError: it does.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            head = file.read(len(mark))
    except FileNotFoundError:
        return
    if head and not head.startswith(mark):
        raise ValueError(f"{path} is there and is no index of smalti's; move it away")


class ShardIndex:
    """The samples of one tar.

    Attributes:
        samples: how many there are, N.
        extensions: the kinds of members, F.
        tar_bytes: size of the whole tar.
        provenance: how the samples came about; equal in all shards of one making.
        notes: what concerns this shard alone.
        digest: tells whether two tars hold the same members at the same places, whatever the format of their indexes.
        order: alike, but blind to the bytes of members: keys and the sizes of images.
        packed: the columns of a packed shard by name, whose samples have no members of their own; else empty.
        nbytes: how much memory its columns take.
    """

    def __init__(self, data: bytes, name: str) -> None:
        if not data:
            raise ValueError(f"{name} is empty; make it again with: smalti index")
        form = data[: len(_FORMAT)]
        if form not in (_FIRST, _FORMAT):
            raise ValueError(f"{name} is not an index of this version; remove it and make it again with: smalti index")
        line = len(form) + 9
        line_end = data.find(b"\n", line) + 1
        if data[len(form) : line] != b"%08x\n" % zlib.crc32(data[line:line_end]):
            raise ValueError(f"{name} is damaged; make it again with: smalti index")
        try:
            header = bounded_json.parsed(data[line:line_end])
            self._read(header, _arrays(data, line_end, header["arrays"]), is_first=form == _FIRST)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, IndexError):
            raise ValueError(f"{name} is damaged; make it again with: smalti index") from None

    def _read(self, header: dict[str, Any], arrays: columns.Columns, is_first: bool) -> None:
        """Takes in the header and what stood behind it."""
        self.samples: int = header["samples"]
        self.extensions: tuple[str, ...] = tuple(header["extensions"])
        self.tar_bytes: int = header["tar_bytes"]
        self.provenance: dict[str, Any] = header["provenance"]
        self.notes: dict[str, Any] = header["notes"]
        if (columns.identity if is_first else columns.checksum)(arrays) != header["digest"]:
            raise ValueError("the checksum of the arrays is wrong")
        if is_first:
            _check_first(arrays, self.samples, len(self.extensions))
            self.digest: int = header["digest"]
            self.order = columns.order_checksum(arrays)
            self._tar_order = columns.tar_order(arrays)
            self._columns = columns.packed(arrays, self._tar_order)
        else:
            self.digest, self.order, self._tar_order = header["identity"], header["order"], header["tar_order"]
            self._columns = arrays
        columns.check(self._columns, self.samples, self._tar_order, self.tar_bytes)
        self.packed = layout.parsed(header.get("packed", ()), self.samples, self.tar_bytes)
        if not isinstance(self.provenance, dict) or not isinstance(self.notes, dict):
            raise ValueError("provenance and notes are not mappings")
        if len(set(self.extensions)) < len(self.extensions) or len(self.extensions) != len(self._tar_order):
            raise ValueError("the extensions do not fit the columns")
        numbers = (self.samples, self.tar_bytes, self.digest, self.order, *self._tar_order)
        if not all(isinstance(each, str) for each in self.extensions) or not all(type(each) is int for each in numbers):
            raise ValueError("a number or an extension is something else")
        if not 0 <= self.tar_bytes < 1 << 62 or max(self.digest, self.order) >> 32 or min(self.digest, self.order) < 0:
            raise ValueError("a number is out of range")
        self._numbers = {extension: column for column, extension in enumerate(self.extensions)}
        self._packed_files = layout.extensions(self.packed)
        self.extensions = self._packed_files or self.extensions
        self._key_begins = columns.begins_of(self._columns["key_sizes"], self.samples)
        self.nbytes = self._key_begins.nbytes + sum(array.nbytes for array in self._columns.values())

    @classmethod
    def read(cls, path: Path) -> "ShardIndex":
        """The index in a file, which is not held open: there may be more shards than a process may open files.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read.
            ValueError: the file is not an index, is cut off, or its checksum is wrong.
        """
        return cls(read_regular(path, _LARGEST), str(path))

    def to_bytes(self) -> bytes:
        """The index as it is stored."""
        header: dict[str, Any] = {
            "samples": self.samples,
            "extensions": list(self._numbers),
            "tar_bytes": self.tar_bytes,
            "provenance": self.provenance,
            "notes": self.notes,
            "identity": self.digest,
            "order": self.order,
            "tar_order": self._tar_order,
        }
        if self.packed:
            header["packed"] = list(self.packed.values())
        return _stored(header, self._columns)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers, as who wrote the shard has noted them."""
        named = self.notes.get("classes", self.provenance.get("classes"))
        return tuple(str(name) for name in named) if isinstance(named, list) else ()

    @property
    def least_sides(self) -> npt.NDArray[np.int64]:
        """(M,) the shorter side of each of the M images whose size is known, in pixels."""
        shorter = np.minimum(self._columns["heights"].astype(np.int64), self._columns["widths"])
        sides = np.broadcast_to(shorter, self.samples)
        return sides[sides > 0]

    def key(self, sample: int) -> str:
        """The key of a sample: the common name of its members up to the first dot."""
        return bytes(self._columns["keys"][self._key_begins[sample] : self._key_begins[sample + 1]]).decode()

    def measured(self, sample: int) -> Measured:
        """The size of a sample's image, and the EXIF orientation to apply when decoding it."""
        return Measured(*(columns.at(self._columns[name], sample) for name in ("heights", "widths", "orientations")))

    def has(self, sample: int, extension: str) -> bool:
        """Whether a sample has a member of this kind, or rows of columns that stand for one."""
        column = self._numbers.get(extension)
        if column is None:
            return extension in self._packed_files
        return columns.at(self._columns[f"sizes.{column}"], sample) > 0

    def member(self, sample: int, extension: str) -> Member:
        """Where a member lies.

        Raises:
            KeyError: the sample has no member of this kind, or none of its own.
            ValueError: the index is damaged.
        """
        if not self.has(sample, extension):
            raise KeyError(extension)
        place, wanted = 0, self._numbers[extension]
        for column in self._tar_order:
            size = columns.at(self._columns[f"sizes.{column}"], sample) - 1
            if size >= 0:
                begin = place + columns.at(self._columns[f"distances.{column}"], sample)
                if column == wanted:
                    break
                place = begin + columns.padded(size)
        crc = columns.at(self._columns[f"crcs.{wanted}"], sample)
        return Member(begin, size, crc, self._layout(sample, wanted))

    def _layout(self, sample: int, column: int) -> bytes:
        length = columns.at(self._columns[f"layout_sizes.{column}"], sample)
        if not length:
            return b""
        begin = int(self._layout_begins[sample, column])
        stored = bytes(self._columns["layouts"][begin : begin + length])
        if zlib.crc32(stored[4:]) != int.from_bytes(stored[:4], "little"):
            raise ValueError("a layout in the index is damaged; make it again with: smalti index")
        return stored[4:]

    @cached_property
    def _layout_begins(self) -> columns.Numbers:
        """(N, F) where each member's layout begins."""
        kinds = range(len(self.extensions))
        lengths = [np.broadcast_to(self._columns[f"layout_sizes.{column}"], self.samples) for column in kinds]
        sizes = np.stack(lengths, 1)
        return columns.begins_of(sizes.reshape(-1), sizes.size)[:-1].reshape(sizes.shape)


def _arrays(data: bytes, place: int, described: Any) -> columns.Columns:
    """The arrays that begin at ``place``, as a header describes them: [name, type, shape] each."""
    arrays: columns.Columns = {}
    for name, dtype, shape in described:
        if dtype not in (*columns.TYPES, "<i4"):  # numpy would parse and evaluate whatever stands there
            raise ValueError(f"{name} is of another type")
        count = math.prod(shape)
        arrays[name] = np.frombuffer(data, dtype, count, place).reshape(shape)  # ValueError where data end
        place += arrays[name].nbytes
    return arrays


def _check_first(arrays: columns.Columns, samples: int, kinds: int) -> None:
    """Makes sure that the arrays of the first format have its types and fit each other.

    Raises:
        ValueError: they do not.
        KeyError: one is missing.
    """
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("offsets", "sizes", "crcs"), (samples, kinds))
    shapes |= dict.fromkeys(("heights", "widths", "orientations", "key_ends"), (samples,))
    shapes |= {"layout_ends": (samples * kinds,)} | {name: (arrays[name].size,) for name in columns.TEXTS}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype != columns.WIDE[name]:
            raise ValueError(f"{name} does not fit the samples")
    if len(arrays) != len(shapes) or arrays["sizes"].min(initial=0) < -1 or arrays["offsets"].min(initial=0) < 0:
        raise ValueError("the arrays are not those of an index")
    for ends, text in (("key_ends", "keys"), ("layout_ends", "layouts")):
        steps = np.diff(arrays[ends], prepend=0, append=arrays[text].size)
        if (steps < 0).any() or (arrays[ends].size and steps[-1]):
            raise ValueError(f"{ends} do not fit")


def index_bytes(
    rows: list[Row],
    tar_bytes: int,
    provenance: Mapping[str, Any],
    notes: Mapping[str, Any],
    packed: Sequence[Column] = (),
) -> bytes:
    """The bytes of an index; of a packed shard, whose rows have no members, with its columns."""
    extensions = sorted({extension for row in rows for extension in row.members})
    absent = Member(0, -1, 0)
    table = [[row.members.get(extension, absent) for extension in extensions] for row in rows]
    keys = [row.key.encode() for row in rows]
    layouts = [_checked(member.layout) for members in table for member in members]
    shape = (len(rows), len(extensions))
    numbers: dict[str, Any] = {
        "offsets": [[member.offset for member in members] for members in table],
        "sizes": [[member.size for member in members] for members in table],
        "crcs": [[member.crc for member in members] for members in table],
        "heights": [row.measured.height for row in rows],
        "widths": [row.measured.width for row in rows],
        "orientations": [row.measured.orientation for row in rows],
        "key_ends": np.cumsum([len(key) for key in keys]),
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "layout_ends": np.cumsum([len(layout) for layout in layouts]),
        "layouts": np.frombuffer(b"".join(layouts), np.uint8),
    }
    wide = {name: np.array(numbers[name], dtype) for name, dtype in columns.WIDE.items()}
    wide |= {name: wide[name].reshape(shape) for name in ("offsets", "sizes", "crcs")}
    order = columns.tar_order(wide)
    header: dict[str, Any] = {
        "samples": len(rows),
        "extensions": extensions,
        "tar_bytes": tar_bytes,
        "provenance": dict(provenance),
        "notes": dict(notes),
        "identity": columns.identity(wide),
        "order": columns.order_checksum(wide),
        "tar_order": order,
    }
    if packed:
        header["packed"] = [list(column) for column in packed]
        header["identity"] = zlib.crc32(json.dumps(header["packed"]).encode(), header["identity"])
    return _stored(header, columns.packed(wide, order))


def _stored(header: Mapping[str, Any], arrays: columns.Columns) -> bytes:
    """The bytes of an index: the format, the header's checksum, the header, the columns."""
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    whole = {**header, "digest": columns.checksum(arrays), "arrays": described}
    line = json.dumps(whole, sort_keys=True).encode() + b"\n"
    return b"".join([_FORMAT, b"%08x\n" % zlib.crc32(line), line, *(array.tobytes() for array in arrays.values())])


def _checked(layout: bytes) -> bytes:
    return zlib.crc32(layout).to_bytes(4, "little") + layout if layout else b""
