"""The index of a folder of shards: what has to be known of each before any of its samples is read.

The file ``shards.index`` lies beside the shards: a line that names the format and the checksum of the rest, a line of
JSON, the shards' names, and a row of 28 bytes for each. So a job that reads a million shards begins with one file. It
adds nothing to what the shards' own indexes say, is checked against each when that is first read, and can be made
again from them at any time.
"""

import json
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import bounded_json
from ..files import read_regular, write_whole
from .index import SUFFIX, ShardIndex, check_replaceable

NAME = "shards.index"
LARGEST = 1 << 32  # bytes of a set's index
MARK = b"smalti set index 1 "
_ROW = np.dtype(
    [
        ("samples", "<u4"),
        ("tar_bytes", "<u8"),
        ("digest", "<u4"),
        ("order", "<u4"),
        ("least_side", "<u4"),  # of its images, in pixels; 0 where none is known
        ("making", "<u4"),
    ]
)

Rows = npt.NDArray[Any]


class Making(NamedTuple):
    """How the samples of some shards came about."""

    provenance: dict[str, Any]
    classes: tuple[str, ...]  # names in the order of their numbers


class SetIndex:
    """What is known of some shards.

    Attributes:
        names: of the shards.
        rows: (S,) of ``samples``, ``tar_bytes``, ``digest``, ``order``, ``least_side`` and ``making``.
        makings: those that ``making`` counts.
    """

    def __init__(self, names: Sequence[str], rows: Rows, makings: Sequence[Making]) -> None:
        self.names = tuple(names)
        self.rows = rows
        self.makings = tuple(makings)

    @classmethod
    def parsed(cls, data: bytes, name: str) -> "SetIndex":
        """A set's index out of the bytes of its file.

        Raises:
            ValueError: they are damaged.
        """
        begin = len(MARK) + 9
        line_end = data.find(b"\n", begin) + 1
        try:
            if data[:begin] != MARK + b"%08x\n" % zlib.crc32(memoryview(data)[begin:]):
                raise ValueError("the checksum is wrong")
            header = bounded_json.parsed(data[begin:line_end])
            shards, length = header["shards"], header["names_bytes"]
            texts = data[line_end : line_end + length].split(b"\0") if shards else []
            rows = np.frombuffer(data, _ROW, shards, line_end + length)
            makings = [Making(dict(made["provenance"]), tuple(map(str, made["classes"]))) for made in header["makings"]]
            if len(set(texts)) != shards or len(data) != line_end + length + rows.nbytes:
                raise ValueError("the names do not fit the rows")
            if shards and (rows["making"].max() >= len(makings) or rows["tar_bytes"].max() >> 62):
                raise ValueError("a row is impossible")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise ValueError(f"{name} is damaged; make it again with: smalti index --keep FOLDER") from None
        return cls([os.fsdecode(text) for text in texts], rows, makings)

    def to_bytes(self) -> bytes:
        """The index as it is stored."""
        names = b"\0".join(map(os.fsencode, self.names))
        makings = [{"provenance": made.provenance, "classes": list(made.classes)} for made in self.makings]
        header = {"shards": len(self.names), "names_bytes": len(names), "makings": makings}
        body = json.dumps(header, sort_keys=True).encode() + b"\n" + names + self.rows.tobytes()
        return MARK + b"%08x\n" % zlib.crc32(body) + body

    def agrees(self, shard: int, index: ShardIndex) -> bool:
        """Whether a shard's own index is the one of which the row tells."""
        row = self.rows[shard]
        said = (int(row["samples"]), int(row["tar_bytes"]), int(row["digest"]), int(row["order"]))
        return said == (index.samples, index.tar_bytes, index.digest, index.order)

    def first_of_each_making(self) -> list[tuple[str, Making]]:
        """Every making with the first shard of it, in the order of the shards."""
        _, first = np.unique(self.rows["making"], return_index=True)
        return [(self.names[shard], self.makings[self.rows["making"][shard]]) for shard in sorted(first.tolist())]


class SetIndexBuilder:
    """Gathers what is known of some shards, out of their own indexes and of those of sets."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._rows = np.zeros(len(self._names), _ROW)
        self._known = np.zeros(len(self._names), bool)
        self._numbers: dict[str, int] = {}
        self._makings: list[Making] = []
        self._last = -1

    def add(self, shard: int, index: ShardIndex) -> None:
        """Takes in what a shard's own index says."""
        least = int(index.least_sides.min(initial=np.iinfo(np.int32).max)) if index.least_sides.size else 0
        making = self._number(Making(index.provenance, index.classes))
        self._rows[shard] = (index.samples, index.tar_bytes, index.digest, index.order, least, making)
        self._known[shard] = True

    def add_rows(self, shards: Sequence[int], found: SetIndex, places: Sequence[int]) -> None:
        """Takes in the rows at some places of another set."""
        numbers = np.array([self._number(making) for making in found.makings] or [0])
        rows = found.rows[list(places)]
        rows["making"] = numbers[rows["making"]]
        self._rows[list(shards)] = rows
        self._known[list(shards)] = True

    def unknown(self) -> list[int]:
        """The shards of which nothing is known yet."""
        missing: list[int] = np.flatnonzero(~self._known).tolist()
        return missing

    def whole(self) -> SetIndex:
        """What is known; shards of which nothing is are left out."""
        if self._known.all():
            return SetIndex(self._names, self._rows, self._makings)
        names = [name for name, known in zip(self._names, self._known, strict=True) if known]
        return SetIndex(names, self._rows[self._known], self._makings)

    def _number(self, making: Making) -> int:
        if self._last < 0 or self._makings[self._last] != making:  # as a rule all shards have one
            text = json.dumps(making, sort_keys=True)
            self._last = self._numbers.setdefault(text, len(self._makings))
            self._makings += [making][: self._last + 1 - len(self._makings)]
        return self._last


def read(folder: Path) -> SetIndex | None:
    """The set's index of a folder, or None where there is none.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    path = folder / NAME
    try:
        return SetIndex.parsed(read_regular(path, LARGEST), str(path))
    except FileNotFoundError:
        return None


def write(folder: Path) -> None:
    """Writes the set's index of a folder after the indexes that lie in it; those that are damaged are left out.

    Where there are none, there is no set's index.

    Raises:
        ValueError: another program's file has its name.
    """
    check_replaceable(folder / NAME, MARK)
    listed = sorted(name.removesuffix(SUFFIX) for name in os.listdir(folder) if name.endswith(".tar" + SUFFIX))  # noqa: PTH208
    builder = SetIndexBuilder(listed)
    for shard, name in enumerate(listed):
        with suppress(OSError, ValueError):  # whoever opens the shard gets the error
            builder.add(shard, ShardIndex.read(folder / (name + SUFFIX)))
    if not listed:
        remove(folder)
        return
    write_whole(folder / NAME, builder.whole().to_bytes())


def remove(folder: Path) -> None:
    """Removes the set's index of a folder in which a shard is about to be replaced: it could not know."""
    check_replaceable(folder / NAME, MARK)
    (folder / NAME).unlink(missing_ok=True)


def by_folder(names: Sequence[str]) -> Mapping[str, list[int]]:
    """The numbers of shards by what stands before the last slash of their names; it is empty or ends with it."""
    folders: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        folders[name[: name.rfind("/") + 1]].append(number)
    return folders


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
