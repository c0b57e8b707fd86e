"""The index of a shard: the place, size and checksum of every member, and the size of every image.

The file ``x.tar.idx`` lies beside ``x.tar``. It is a line that names the format and the checksum of the next, a line of
JSON, then plain little-endian arrays that are never parsed.

Shapes: N samples, F kinds of members (``jpg``, ``segmentation.png``, ...).
"""

import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import bounded_json
from ..files import open_regular, read_regular, write_whole
from ..images.geometry import Measured


class SampleLocation(NamedTuple):
    """Where a sample lies: a shard of a set, and a sample of that shard."""

    shard: int
    sample: int


_FORMAT = b"smalti shard index 1 "
SUFFIX = ".idx"
_LARGEST = 1 << 33  # bytes of an index
_DTYPES = {
    "offsets": "<i8",
    "sizes": "<i8",
    "crcs": "<u4",
    "heights": "<i4",
    "widths": "<i4",
    "orientations": "|u1",
    "key_ends": "<i8",
    "keys": "|u1",
    "layout_ends": "<i8",
    "layouts": "|u1",
}


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


def check_replaceable(path: Path) -> None:
    """Makes sure that an index that is to be written takes no other program's place; a damaged one of ours it may.

    Raises:
        ValueError: it does.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            head = file.read(len(_FORMAT))
    except FileNotFoundError:
        return
    if head and not head.startswith(_FORMAT[: _FORMAT.index(b"1")]):
        raise ValueError(f"{path} is there and is no index of smalti's; move it away")


class ShardIndex:
    """The samples of one tar.

    Attributes:
        samples: how many there are, N.
        extensions: the kinds of members, in the order of the columns.
        tar_bytes: size of the whole tar.
        provenance: how the samples came about; equal in all shards of one making.
        notes: what concerns this shard alone.
        digest: a checksum of everything but provenance and notes.
        heights, widths: (N,) of the images, in pixels; 0 where a sample has no image.
    """

    def __init__(self, data: bytes, name: str) -> None:
        if not data:
            raise ValueError(f"{name} is empty; make it again with: smalti index")
        if data[: len(_FORMAT)] != _FORMAT:
            raise ValueError(f"{name} is not an index of this version; remove it and make it again with: smalti index")
        line = len(_FORMAT) + 9
        line_end = data.find(b"\n", line) + 1
        if data[len(_FORMAT) : line] != b"%08x\n" % zlib.crc32(data[line:line_end]):
            raise ValueError(f"{name} is damaged; make it again with: smalti index")
        try:
            self._read(data, line_end, bounded_json.parsed(data[line:line_end]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise ValueError(f"{name} is damaged; make it again with: smalti index") from None

    def _read(self, data: bytes, place: int, header: dict[str, Any]) -> None:
        """Takes in the header and the arrays behind it, which begin at ``place``."""
        self.samples: int = header["samples"]
        self.extensions: tuple[str, ...] = tuple(header["extensions"])
        self.tar_bytes: int = header["tar_bytes"]
        self.provenance: dict[str, Any] = header["provenance"]
        self.notes: dict[str, Any] = header["notes"]
        self.digest: int = header["digest"]
        arrays: dict[str, npt.NDArray[Any]] = {}
        checked = 0
        for array, dtype, shape in header["arrays"]:
            if dtype != _DTYPES[array]:  # numpy would parse and evaluate whatever stands there
                raise ValueError(f"{array} is of another type")
            count = math.prod(shape)
            length = count * np.dtype(dtype).itemsize
            if array != "layouts":  # each layout carries its own checksum and is read only when needed
                checked = zlib.crc32(memoryview(data)[place : place + length], checked)
            arrays[array] = np.frombuffer(data, dtype, count, place).reshape(shape)  # ValueError where data end
            place += length
        if checked != self.digest:
            raise ValueError("the checksum of the arrays is wrong")
        _check_arrays(arrays, self.samples, self.extensions, self.tar_bytes)
        if not isinstance(self.provenance, dict) or not isinstance(self.notes, dict):
            raise ValueError("provenance and notes are not mappings")
        self._arrays = arrays
        self._columns = {extension: column for column, extension in enumerate(self.extensions)}
        self.heights = arrays["heights"]
        self.widths = arrays["widths"]

    @classmethod
    def read(cls, path: Path) -> "ShardIndex":
        """The index in a file, which is not held open: there may be more shards than a process may open files.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read.
            ValueError: the file is not an index, is cut off, or its checksum is wrong.
        """
        return cls(read_regular(path, _LARGEST), str(path))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers, as who wrote the shard has noted them."""
        named = self.notes.get("classes", self.provenance.get("classes"))
        return tuple(str(name) for name in named) if isinstance(named, list) else ()

    def key(self, sample: int) -> str:
        """The key of a sample: the common name of its members up to the first dot."""
        ends = self._arrays["key_ends"]
        begin = int(ends[sample - 1]) if sample else 0
        return bytes(self._arrays["keys"][begin : int(ends[sample])]).decode()

    @property
    def order_checksum(self) -> int:
        """CRC-32 of what decides the order and the crops of samples: their keys and the sizes of their images."""
        checked = 0
        for name in ("key_ends", "keys", "heights", "widths"):
            checked = zlib.crc32(self._arrays[name].tobytes(), checked)
        return checked

    def measured(self, sample: int) -> Measured:
        """The size of a sample's image, and the EXIF orientation to apply when decoding it."""
        return Measured(int(self.heights[sample]), int(self.widths[sample]), int(self._arrays["orientations"][sample]))

    def has(self, sample: int, extension: str) -> bool:
        """Whether a sample has a member of this kind."""
        column = self._columns.get(extension)
        return column is not None and bool(self._arrays["sizes"][sample, column] >= 0)

    def member(self, sample: int, extension: str) -> Member:
        """Where a member lies.

        Raises:
            KeyError: the sample has no member of this kind.
            ValueError: the index is damaged.
        """
        if not self.has(sample, extension):
            raise KeyError(extension)
        column = self._columns[extension]
        return Member(
            int(self._arrays["offsets"][sample, column]),
            int(self._arrays["sizes"][sample, column]),
            int(self._arrays["crcs"][sample, column]),
            self._layout(sample * len(self.extensions) + column),
        )

    def _layout(self, number: int) -> bytes:
        ends = self._arrays["layout_ends"]
        begin, end = int(ends[number - 1]) if number else 0, int(ends[number])
        if begin == end:
            return b""
        stored = bytes(self._arrays["layouts"][begin:end])
        if zlib.crc32(stored[4:]) != int.from_bytes(stored[:4], "little"):
            raise ValueError("a layout in the index is damaged; make it again with: smalti index")
        return stored[4:]


def _check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], samples: int, extensions: Sequence[str], tar_bytes: int
) -> None:
    """Makes sure that the arrays of an index fit each other and its shard: the checksums may be a stranger's own.

    Raises:
        ValueError: they do not.
        KeyError: one is missing.
    """
    table = (samples, len(extensions))
    shapes = {"offsets": table, "sizes": table, "crcs": table, "layout_ends": (samples * len(extensions),)}
    shapes |= dict.fromkeys(("heights", "widths", "orientations", "key_ends"), (samples,))
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    for ends, data in (("key_ends", "keys"), ("layout_ends", "layouts")):
        bounds = np.concatenate([[0], arrays[ends], [arrays[data].size]])
        if arrays[data].ndim != 1 or (np.diff(bounds) < 0).any() or (len(bounds) > 2 and bounds[-2] != bounds[-1]):
            wrong.append(ends)
    if wrong or len(set(extensions)) < len(extensions) or not all(isinstance(each, str) for each in extensions):
        raise ValueError(f"the arrays {wrong} do not fit the samples")
    sizes, offsets = arrays["sizes"], arrays["offsets"]
    there = sizes >= 0
    if ((offsets < 0) | (sizes > tar_bytes) | (offsets > tar_bytes - np.minimum(sizes, tar_bytes)))[there].any():
        raise ValueError("a member lies outside of the tar")
    if min(arrays["heights"].min(initial=0), arrays["widths"].min(initial=0)) < 0 or (arrays["orientations"] > 8).any():
        raise ValueError("an image has a size or an orientation that none can have")
    bytes(arrays["keys"]).decode()


def write_index(
    path: Path, rows: Iterable[Row], tar_bytes: int, provenance: Mapping[str, Any], notes: Mapping[str, Any]
) -> None:
    """Writes an index, whole or not at all."""
    write_whole(path, index_bytes(list(rows), tar_bytes, provenance, notes))


def index_bytes(rows: list[Row], tar_bytes: int, provenance: Mapping[str, Any], notes: Mapping[str, Any]) -> bytes:
    """The bytes of an index."""
    extensions = sorted({extension for row in rows for extension in row.members})
    absent = Member(0, -1, 0)
    table = [[row.members.get(extension, absent) for extension in extensions] for row in rows]
    keys = [row.key.encode() for row in rows]
    layouts = [_checked(member.layout) for members in table for member in members]
    shape = (len(rows), len(extensions))
    arrays = {
        "offsets": np.array([[m.offset for m in members] for members in table], _DTYPES["offsets"]).reshape(shape),
        "sizes": np.array([[m.size for m in members] for members in table], _DTYPES["sizes"]).reshape(shape),
        "crcs": np.array([[m.crc for m in members] for members in table], _DTYPES["crcs"]).reshape(shape),
        "heights": np.array([row.measured.height for row in rows], _DTYPES["heights"]),
        "widths": np.array([row.measured.width for row in rows], _DTYPES["widths"]),
        "orientations": np.array([row.measured.orientation for row in rows], _DTYPES["orientations"]),
        "key_ends": np.cumsum([len(key) for key in keys], dtype=_DTYPES["key_ends"]),
        "keys": np.frombuffer(b"".join(keys), _DTYPES["keys"]),
        "layout_ends": np.cumsum([len(layout) for layout in layouts], dtype=_DTYPES["layout_ends"]),
        "layouts": np.frombuffer(b"".join(layouts), _DTYPES["layouts"]),
    }
    digest = 0
    for name, array in arrays.items():
        if name != "layouts":
            digest = zlib.crc32(array.tobytes(), digest)
    header = {
        "samples": len(rows),
        "extensions": extensions,
        "tar_bytes": tar_bytes,
        "provenance": dict(provenance),
        "notes": dict(notes),
        "digest": digest,
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    line = json.dumps(header, sort_keys=True).encode() + b"\n"
    return b"".join([_FORMAT, b"%08x\n" % zlib.crc32(line), line, *(array.tobytes() for array in arrays.values())])


def _checked(layout: bytes) -> bytes:
    return zlib.crc32(layout).to_bytes(4, "little") + layout if layout else b""
