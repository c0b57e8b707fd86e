"""Which arrays a packed shard holds, and what file of its own a row of them stands for.

A tar of a file each spends 1024 bytes or more on every label and every box. A packed shard has one ``.npy`` member for
each kind: the grids as (N, h, w), classes as (N,), boxes as (N, 4). It still is a tar of WebDataset: one sample whose
fields are the arrays, and whose ``packed.json`` has the keys.

A row that is large has a checksum of its own, in the column NAME.crc; small columns are read and checked as a whole.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import bounded_json

KEYS = "packed.json"  # the first member; names the format and the samples
FORMAT = 1
CHECKSUM = ".crc"  # ends the name of the column of a column's checksums
_TYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
PLACE = ("box", "source_size", "flip")  # what the file ``json`` of a sample says
_SMALL = 64  # bytes of a row; larger ones are read and checked alone
_ONE_FILE = "codes.npy"  # without which there is nothing to pack

Array = npt.NDArray[Any]


class Column(NamedTuple):
    """An array in a packed shard, a row for each sample."""

    name: str
    type: str  # numpy's, little-endian
    shape: tuple[int, ...]  # of a row
    offset: int  # of its first row in the tar
    crc: int  # CRC-32 of all rows

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * np.dtype(self.type).itemsize

    def rows(self, data: bytes) -> Array:
        """(rows, *shape) numbers out of their bytes."""
        return np.frombuffer(data, self.type).reshape(-1, *self.shape)


def columns_of(samples: Sequence[Mapping[str, bytes]]) -> dict[str, Array] | None:
    """The columns of samples that are given as files, or None where these do not fit columns.

    Grids of different shapes do not, nor a field that only some samples have, nor an image beside the codes.

    Args:
        samples: bytes by extension, for each.
    """
    kinds = sorted(samples[0]) if samples else []
    if _ONE_FILE not in kinds or any(sample.keys() != samples[0].keys() for sample in samples):
        return None
    found: dict[str, Array] = {}
    for kind in kinds:
        try:
            made = _made_of(kind, [sample[kind] for sample in samples])
        except (ValueError, TypeError, KeyError, OverflowError, EOFError):  # whatever is odd about a stranger's files
            return None
        if made is None:
            return None
        found |= made
    return found


def is_checked_by_row(array_bytes: int, rows: int) -> bool:
    """Whether rows of a column of this size have checksums of their own."""
    return array_bytes > _SMALL * rows


def extensions(columns: Mapping[str, Column]) -> tuple[str, ...]:
    """The extensions of the files that the rows stand for."""
    plain = [name for name in columns if not name.endswith(CHECKSUM) and name not in PLACE]
    named = [name if name == "cls" else f"{name}.npy" for name in plain]
    return tuple(sorted([*named, *(["json"] if PLACE[0] in columns else [])]))


def columns_behind(extension: str) -> tuple[str, ...]:
    """The columns that a file is made of."""
    return PLACE if extension == "json" else (extension.removesuffix(".npy"),)


def small_ranges(columns: Mapping[str, Column], samples: int) -> list[tuple[int, int]]:
    """(offset, size) of the columns that are read as a whole."""
    small = (column for column in columns.values() if not is_checked_by_row(column.row_bytes, 1))
    return [(column.offset, samples * column.row_bytes) for column in small]


def as_file(extension: str, rows: Sequence[Array]) -> bytes:
    """The bytes of a sample's file, from its row in each of the columns behind it."""
    if extension == "cls":
        return str(int(rows[0])).encode()
    if extension == "json":
        box, source_size, flip = (row.tolist() for row in rows)
        return json.dumps({"box": box, "source_size": source_size, "flip": flip}).encode()
    file = io.BytesIO()
    np.save(file, rows[0])
    return file.getvalue()


def parsed(stored: Sequence[Any], samples: int, tar_bytes: int) -> dict[str, Column]:
    """Columns as an index tells of them.

    Raises:
        ValueError: they do not fit the shard.
        TypeError: they are something else.
    """
    columns = {}
    for name, kind, shape, offset, crc in stored:
        column = Column(str(name), str(kind), tuple(shape), offset, crc)
        numbers = (*column.shape, offset, crc)
        if kind not in _TYPES or any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
            raise ValueError(f"the column {name} is impossible")
        if offset + samples * column.row_bytes > tar_bytes:
            raise ValueError(f"the column {name} lies outside of the tar")
        columns[column.name] = column
    checked = {name + CHECKSUM for name, column in columns.items() if is_checked_by_row(column.row_bytes, 1)}
    wrong = checked - columns.keys() or any(columns[name].shape or columns[name].type != "<u4" for name in checked)
    if wrong or len(set(PLACE) & columns.keys()) not in (0, len(PLACE)) or len(columns) != len(stored):
        raise ValueError("the columns do not belong together")
    return columns


def _made_of(kind: str, files: Sequence[bytes]) -> dict[str, Array] | None:
    """The columns of one kind of file."""
    if kind == "cls":
        return {"cls": np.array([int(file) for file in files], "<i8")}
    if kind == "json":
        return _places(files)
    if not kind.endswith(".npy"):
        return None
    arrays = [np.load(io.BytesIO(file), allow_pickle=False) for file in files]
    kinds = {(array.shape, array.dtype.newbyteorder("<").str) for array in arrays}
    if len(kinds) > 1 or (kind_of_all := kinds.pop()[1]) not in _TYPES:
        return None
    return {kind.removesuffix(".npy"): np.ascontiguousarray(np.stack(arrays), kind_of_all)}


def _places(files: Sequence[bytes]) -> dict[str, Array] | None:
    """Boxes, sizes and flips; None where a file says anything else, or numbers that would be rounded."""
    said = [bounded_json.parsed(file) for file in files]
    if any(not isinstance(each, dict) or each.keys() != set(PLACE) for each in said):
        return None
    boxes = np.array([each["box"] for each in said], np.float64)
    sizes = np.array([each["source_size"] for each in said], np.float64)
    flips = [each["flip"] for each in said]
    exact = all(np.array_equal(numbers.astype("<f4"), numbers) for numbers in (boxes, sizes))
    if not exact or boxes.shape[1:] != (4,) or sizes.shape[1:] != (2,) or any(type(flip) is not bool for flip in flips):
        return None
    return {"box": boxes.astype("<f4"), "source_size": sizes.astype("<f4"), "flip": np.array(flips)}
