"""Indexing tars that somebody else made, with no rewriting, and finding whatever is wrong with them.

Reading a tar as a stream ends quietly at a damaged header, so that samples are lost unseen. Here every header is
checked, and what does not fit is named with its byte.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import jpeg
from .fields import EXTENSIONS
from .files import write_whole
from .gathering import Skipped
from .index import Measured, Member, Row, index_bytes
from .pictures import measure
from .shard_writer import index_path

_BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes


class DamagedTarError(ValueError):
    """A tar cannot be indexed; the text names the file and the byte."""


class _File(NamedTuple):
    """One file in a tar."""

    name: str
    offset: int  # of its bytes
    data: bytes


class Scanned(NamedTuple):
    """The samples of a tar."""

    rows: list[Row]
    skipped: list[Skipped]
    tar_bytes: int

    def to_bytes(self) -> bytes:
        """The index as it is stored."""
        notes = {"skipped": [list(left) for left in self.skipped]}
        return index_bytes(self.rows, self.tar_bytes, {}, notes)


class Indexed(NamedTuple):
    """What came of indexing a tar."""

    samples: int
    skipped: list[Skipped]
    problem: str | None  # why there is no index


def scan(path: Path, minimum_side: int = 1) -> Scanned:
    """The samples of a tar in the conventions of WebDataset: files of one key follow each other.

    Pictures whose headers cannot be read, or with a side below ``minimum_side`` pixels, are left out and named.

    Raises:
        DamagedTarError: a header is damaged, the file is cut off, bytes follow its end, a sample's files do not lie
            together, or one is there twice.
        FileNotFoundError: there is no such file.
    """
    rows: list[Row] = []
    skipped: list[Skipped] = []
    finished: set[str] = set()
    with path.open("rb") as tar:
        for key, files in _samples(_files(tar, path), finished, path):
            try:
                rows.append(_row(key, files, minimum_side))
            except ValueError as error:
                skipped.append(Skipped(key, str(path), str(error)))
        return Scanned(rows, skipped, tar.seek(0, 2))


def write_index_of(path: Path, minimum_side: int = 1) -> Indexed:
    """Scans a tar and writes its index beside it. What prevents that is told, not raised: many are done at once."""
    try:
        scanned = scan(path, minimum_side)
        write_whole(index_path(path), scanned.to_bytes())
    except (OSError, DamagedTarError) as error:
        return Indexed(0, [], str(error))
    return Indexed(len(scanned.rows), scanned.skipped, None)


def _samples(files: Iterator[_File], finished: set[str], path: Path) -> Iterator[tuple[str, dict[str, _File]]]:
    """Files gathered by key, checked for being together."""
    key, members = "", dict[str, _File]()
    for file in files:
        of, extension = _split(file.name)
        if of != key and members:
            yield key, members
            finished.add(key)
            members = {}
        if of in finished:
            raise DamagedTarError(f"{path}, byte {file.offset}: the files of sample {of!r} do not follow each other")
        if extension in members:
            raise DamagedTarError(f"{path}, byte {file.offset}: sample {of!r} has two files .{extension}")
        key = of
        members[extension] = file
    if members:
        yield key, members


def _split(name: str) -> tuple[str, str]:
    """The key and the extension of a file, at the first dot after the last slash."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _row(key: str, files: dict[str, _File], minimum_side: int) -> Row:
    """The index's row of a sample; ValueError says why it cannot be used."""
    members = {
        extension: Member(file.offset, len(file.data), zlib.crc32(file.data)) for extension, file in files.items()
    }
    extension = next((extension for extension in EXTENSIONS["picture"] if extension in files), None)
    if extension is None:
        return Row(key, members)
    data = files[extension].data
    try:
        measured = measure(data)
    except Exception as error:  # decoders raise whatever the damage leads them to
        raise ValueError(f".{extension} cannot be read: {type(error).__name__}: {error}") from error
    if min(measured.height, measured.width) < minimum_side:
        raise ValueError(f"its sides of {measured.width} x {measured.height} must be at least {minimum_side}")
    layout = jpeg.layout_of(data)
    if layout is not None:
        members[extension] = members[extension]._replace(layout=layout.to_bytes())
    return Row(key, members, Measured(*measured))


def _files(tar: BinaryIO, path: Path) -> Iterator[_File]:
    """The regular files of a tar (POSIX.1-1988, GNU and pax forms), every header checked."""
    name = ""  # given ahead of the header, where it is long
    size = -1
    while True:
        place = tar.tell()
        header = tar.read(_BLOCK)
        if header == bytes(_BLOCK):
            return _check_end(tar, path, place)
        _check_header(header, path, place)
        kind = header[156:157]
        length = 0 if kind in _WITHOUT_DATA else _number(header[124:136])
        if kind in _REGULAR and size >= 0:
            length = size
        begin = tar.tell()
        data = tar.read(length)
        padding = tar.read(-length % _BLOCK)
        if len(data) < length or len(padding) < -length % _BLOCK:
            raise DamagedTarError(f"{path} is cut off at byte {tar.tell()}, inside the file whose header is at {place}")
        if kind == b"L":
            name = data.rstrip(b"\0").decode()
        elif kind == b"x":
            records = _pax_records(data)
            name, size = records.get("path", name), int(records.get("size", -1))
        elif kind in _REGULAR:
            yield _File(name or _plain_name(header), begin, data)
            name, size = "", -1
        else:
            name, size = "", -1


def _check_header(header: bytes, path: Path, place: int) -> None:
    if len(header) < _BLOCK:
        raise DamagedTarError(f"{path} is cut off at byte {place + len(header)}: the end of the archive is missing")
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    try:
        sound = _number(header[148:156]) == total
    except ValueError:
        sound = False
    if not sound:
        raise DamagedTarError(f"{path}, byte {place}: the header is damaged, its checksum is wrong")


def _check_end(tar: BinaryIO, path: Path, place: int) -> None:
    """Makes sure that nothing but zeros follows the first block of them."""
    at = place + _BLOCK
    while rest := tar.read(1 << 20):
        if rest.strip(b"\0"):
            at += len(rest) - len(rest.lstrip(b"\0"))
            raise DamagedTarError(f"{path}, byte {place}: zeros in the middle, data go on at byte {at}")
        at += len(rest)
    if at < place + 2 * _BLOCK:
        raise DamagedTarError(f"{path} is cut off at byte {at}: the end of the archive is missing")


def _number(field: bytes) -> int:
    """A number in a header: octal, or binary with the first bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _plain_name(header: bytes) -> str:
    name = header[:100].rstrip(b"\0").decode()
    prefix = header[345:500].rstrip(b"\0").decode() if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax_records(data: bytes) -> dict[str, str]:
    """The records "LENGTH NAME=VALUE" of an extended header."""
    records = {}
    while data:
        length = int(data.split(b" ", 1)[0])
        name, _, value = data[:length].split(b" ", 1)[1].rstrip(b"\n").partition(b"=")
        records[name.decode()] = value.decode()
        data = data[length:]
    return records
