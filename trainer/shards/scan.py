"""Indexing tars that somebody else made, with no rewriting, and finding whatever is wrong with them.

Reading a tar as a stream ends quietly at a damaged header, so that samples are lost unseen. Here every header is
checked, and what does not fit is named with its byte.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..files import open_regular, write_whole
from ..images import seekable_jpeg
from ..images.decode import measure
from ..images.geometry import Measured
from .access.tar_headers import (
    BLOCK,
    SPARSE,
    WITHOUT_DATA,
    DamagedTarError,
    check_header,
    check_kind,
    name_of,
    number,
    pax_records,
    plain_name,
)
from .fields import EXTENSIONS
from .folder_walk import Skipped, escaped
from .index import Member, Row, check_replaceable, index_bytes
from .packed.layout import KEYS, Column
from .packed.scanning import columns_in
from .writer import finished, index_path

_REGULAR = (b"0", b"\0", b"7")
_LEFT_OUT = {  # kinds of entries that are no samples, and are named
    b"1": "is a hard link inside the tar, without data of its own; make the tar with --hard-dereference",
    b"2": "is a symbolic link inside the tar; make the tar with --dereference",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a named pipe",
    b"S": SPARSE,
}
_LARGEST = 1 << 32  # bytes of a member
_HIDDEN = "is hidden"


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
    packed: Sequence[Column] = ()  # of a packed shard

    def to_bytes(self) -> bytes:
        """The index as it is stored."""
        notes = {"skipped": [list(left) for left in self.skipped]}
        return index_bytes(self.rows, self.tar_bytes, {}, notes, self.packed)


class Indexed(NamedTuple):
    """What came of indexing a tar."""

    samples: int
    skipped: list[Skipped]
    problem: str | None  # why there is no index
    note: str | None = None  # what may not be as it was meant


def scan(path: Path, minimum_side: int = 1) -> Scanned:
    """The samples of a tar in the conventions of WebDataset: files of one key follow each other.

    Images whose headers cannot be read, or with a side below ``minimum_side`` pixels, are left out and named.

    Raises:
        DamagedTarError: a header is damaged, the file is cut off, bytes follow its end, a sample's files do not lie
            together, or one is there twice.
        FileNotFoundError: there is no such file.
    """
    rows: list[Row] = []
    skipped: list[Skipped] = []
    finished: set[str] = set()
    with os.fdopen(open_regular(path), "rb") as tar:
        for key, files in _samples(_files(tar, path, skipped), finished, path):
            if KEYS in files:
                return _scanned_packed(files, path, tar.seek(0, 2))
            try:
                rows.append(_row(key, files, minimum_side))
            except ValueError as error:
                skipped.append(Skipped(key, str(path), str(error)))
        return Scanned(rows, _with_hidden_counted(skipped, path), tar.seek(0, 2))


def _scanned_packed(files: dict[str, _File], path: Path, tar_bytes: int) -> Scanned:
    """The samples of a packed shard, whose files are the columns of all of them."""
    try:
        found = columns_in({extension: (file.offset, file.data) for extension, file in files.items()})
    except (ValueError, EOFError) as error:
        raise DamagedTarError(f"{path} is a packed shard whose columns cannot be used: {error}") from error
    return Scanned([Row(key, {}) for key in found.keys], [], tar_bytes, found.columns)


def write_index_of(path: Path, minimum_side: int = 1) -> Indexed:
    """Scans a tar and writes its index beside it. What prevents that is returned, not raised: many are done at once."""
    try:
        check_replaceable(index_path(path))
        scanned = scan(path, minimum_side)
        write_whole(index_path(path), scanned.to_bytes())
    except (OSError, ValueError) as error:
        return Indexed(0, [], escaped(str(error)))
    except Exception as error:  # whatever is odd about one tar must not end the work on the others
        return Indexed(0, [], escaped(f"{path} cannot be indexed: {type(error).__name__}: {error}"))
    note = None if scanned.packed else _without_image(path, scanned.rows)
    return Indexed(len(scanned.rows), scanned.skipped, None, note)


def _without_image(path: Path, rows: Sequence[Row]) -> str | None:
    """A note about samples of which nothing can be read without further words, as where names differ in a dot only."""
    known = {*EXTENSIONS["image"], *EXTENSIONS["codes"]}
    bare = [row for row in rows if not known & row.members.keys()]
    if not bare:
        return None
    files = ", ".join(f".{extension}" for extension in list(bare[0].members)[:3])
    return escaped(
        f"{path}: {len(bare)} of {len(rows)} samples have neither an image nor codes, such as {bare[0].key} with "
        f"{files}; a sample's key ends at the first dot of a file's name, and train_data.extensions can name others"
    )


def rewrite_index_of(path: Path) -> Indexed:
    """Writes the index that lies beside a tar anew in the present format, nothing else changed; the tar is not read.

    A tar that has no index, or one that does not fit it, is scanned.
    """
    try:
        index = finished(path)
        if index is None:
            return write_index_of(path)
        write_whole(index_path(path), index.to_bytes())
    except OSError as error:
        return Indexed(0, [], escaped(str(error)))
    return Indexed(index.samples, [], None)


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
    extension = next((extension for extension in EXTENSIONS["image"] if extension in files), None)
    if extension is None:
        return Row(key, members)
    data = files[extension].data
    try:
        measured = measure(data)
    except Exception as error:  # decoders raise whatever the damage leads them to
        raise ValueError(f".{extension} cannot be read: {type(error).__name__}: {error}") from error
    if min(measured.height, measured.width) < minimum_side:
        raise ValueError(f"its sides of {measured.width} x {measured.height} must be at least {minimum_side}")
    layout = seekable_jpeg.layout_of(data)
    if layout is not None:
        members[extension] = members[extension]._replace(layout=layout.to_bytes())
    return Row(key, members, Measured(*measured))


def _with_hidden_counted(skipped: list[Skipped], path: Path) -> list[Skipped]:
    """What is left out, with one line for all files whose names begin with a dot."""
    reported = [left for left in skipped if left.reason != _HIDDEN]
    if hidden := len(skipped) - len(reported):
        reported.append(Skipped(".*", str(path), f"{hidden} hidden file(s), such as .DS_Store and ._ of macOS"))
    return reported


def _files(tar: BinaryIO, path: Path, skipped: list[Skipped]) -> Iterator[_File]:
    """The regular files of a tar (POSIX.1-1988, GNU and pax forms), every header checked; others are noted."""
    said: dict[str, str] = {}  # of the next file, ahead of its header
    tar_bytes = os.fstat(tar.fileno()).st_size
    while True:
        place = tar.tell()
        header = tar.read(BLOCK)
        if header == bytes(BLOCK):
            return _check_end(tar, path, place)
        if not place:
            check_kind(header, str(path))
        check_header(header, str(path), place)
        kind = header[156:157]
        length = 0 if kind in WITHOUT_DATA else _size(header, kind, said, path, place)
        begin = _after_sparse_map(tar, header) if kind == b"S" else tar.tell()
        if begin + length > tar_bytes:
            raise DamagedTarError(
                f"{path} is cut off at byte {tar_bytes}, inside the file whose header is at {place}: it should have "
                f"{length} bytes"
            )
        name = said.get("path") or plain_name(header)
        reason = _reason_to_leave(kind, name, length, said)
        data = b"" if reason else tar.read(length)
        tar.seek(begin + length + -length % BLOCK)
        if tar.tell() > tar_bytes:
            raise DamagedTarError(f"{path} is cut off at byte {tar_bytes}, inside the file whose header is at {place}")
        if kind in (b"L", b"x", b"g", b"K"):
            said |= _said_ahead(kind, data, path, place)
            continue
        if reason:
            skipped.append(Skipped(_split(name)[0], f"{path}: {name}", reason))
        elif kind in _REGULAR:
            yield _File(name, begin, data)
        said = {}


def _reason_to_leave(kind: bytes, name: str, length: int, said: dict[str, str]) -> str | None:
    """Why an entry is no file of a sample, though one may think so."""
    if kind in (b"L", b"x", b"g", b"K"):
        return None if length < 1 << 20 else "says too much of the next file"
    if kind in _LEFT_OUT:
        return _LEFT_OUT[kind]
    if kind not in (*_REGULAR, b"5", b"V"):
        return f"is of a kind {escaped(kind)!r} that is not known"
    if kind in _REGULAR and name.rpartition("/")[2].startswith("."):
        return _HIDDEN
    if any(record.startswith("GNU.sparse.") for record in said):
        return _LEFT_OUT[b"S"]
    if length > _LARGEST:
        return f"has {length} bytes, more than the {_LARGEST} that are read at once"
    return None


def _size(header: bytes, kind: bytes, said: dict[str, str], path: Path, place: int) -> int:
    """Bytes of an entry, by its header or by what was said ahead of it."""
    try:
        stated = said.get("size") if kind in _REGULAR else None
        if stated is not None and not stated.isdecimal():
            raise ValueError
        return number(header[124:136]) if stated is None else int(stated)
    except ValueError:
        raise DamagedTarError(f"{path}, byte {place}: the header is damaged, its size is no number") from None


def _said_ahead(kind: bytes, data: bytes, path: Path, place: int) -> dict[str, str]:
    """What an extended header says of the next file."""
    if kind == b"L":
        return {"path": name_of(data.rstrip(b"\0"))}
    if kind != b"x":
        return {}  # the target of a link, or what concerns all files
    try:
        return pax_records(data)
    except (ValueError, IndexError):
        raise DamagedTarError(f"{path}, byte {place}: the extended (pax) header is malformed") from None


def _after_sparse_map(tar: BinaryIO, header: bytes) -> int:
    """Where the data of an old GNU sparse file begin: after further blocks of its map."""
    more = header[482]
    while more:
        block = tar.read(BLOCK)
        more = block[504] if len(block) == BLOCK else 0
    return tar.tell()


def _check_end(tar: BinaryIO, path: Path, place: int) -> None:
    """Makes sure that nothing but zeros follows the first block of them."""
    at = place + BLOCK
    while rest := tar.read(1 << 20):
        if rest.strip(b"\0"):
            at += len(rest) - len(rest.lstrip(b"\0"))
            raise DamagedTarError(f"{path}, byte {place}: zeros in the middle, data go on at byte {at}")
        at += len(rest)
    if at < place + 2 * BLOCK:
        raise DamagedTarError(f"{path} is cut off at byte {at}: the end of the archive is missing")
