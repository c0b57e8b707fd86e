"""Rows of the columns of a packed shard, read and checked."""

import zlib
from collections.abc import Callable, Mapping, Sequence

from ...files import ChecksumError
from .layout import CHECKSUM, Array, Column, as_file, columns_behind, is_checked_by_row, small_ranges

ReadMany = Callable[[Sequence[tuple[int, int]]], list[bytes]]  # [(offset, size), ...] in the tar -> their bytes


class PackedRows:
    """The small columns of a packed shard, held in memory, and where the rows of the large ones lie.

    Args:
        columns: by name.
        samples: in the shard, N.
        read_many: reads stretches of the tar.

    Attributes:
        columns: as given.
        forms: type and shape of a row of each.
        small: (N, ...) columns that are in memory.
        nbytes: that they take.

    Raises:
        ChecksumError: a small column is damaged.
        Exception: what ``read_many`` raises.
    """

    def __init__(self, columns: Mapping[str, Column], samples: int, read_many: ReadMany) -> None:
        small = [column for column in columns.values() if not is_checked_by_row(column.row_bytes, 1)]
        self.columns = columns
        self.forms = {column.name: (column.type, column.shape) for column in columns.values()}
        self.small: dict[str, Array] = {}
        found = read_many(small_ranges(columns, samples))
        for column, data in zip(small, found, strict=True):
            if zlib.crc32(data) != column.crc:
                raise ChecksumError(f"the column {column.name} at byte {column.offset} has a wrong CRC")
            self.small[column.name] = column.rows(data)
        self.nbytes = sum(array.nbytes for array in self.small.values())
        self._large = {column.name: (column.offset, column.row_bytes) for column in columns.values()}
        self._crcs = {name: self.small[name + CHECKSUM].tolist() for name in columns if name + CHECKSUM in columns}

    def place(self, name: str, sample: int) -> tuple[int, int]:
        """(offset, size) of a row of a large column in the tar."""
        begin, size = self._large[name]
        return begin + sample * size, size

    def is_sound(self, name: str, sample: int, data: bytes) -> bool:
        """Whether the bytes of a row of a large column are those that were packed."""
        said: int = self._crcs[name][sample]
        return zlib.crc32(data) == said

    def damage(self, name: str, sample: int) -> str:
        """What to say of a row that is not sound."""
        return f"row {sample} of {name} at byte {self.place(name, sample)[0]} has a wrong CRC"

    def file(self, extension: str, sample: int, read_many: ReadMany) -> bytes:
        """The bytes of the file that a sample's rows stand for.

        Raises:
            ChecksumError: a row is damaged.
            Exception: what ``read_many`` raises.
        """
        rows = []
        for name in columns_behind(extension):
            if name in self.small:
                rows.append(self.small[name][sample])
            else:
                (data,) = read_many([self.place(name, sample)])
                if not self.is_sound(name, sample, data):
                    raise ChecksumError(self.damage(name, sample))
                rows.append(self.columns[name].rows(data)[0])
        return as_file(extension, rows)
