"""Where the files of a published data set lie: in folders, tars, tars in tars and zips, none of which is unpacked."""

import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from ...files import open_regular
from ...shards.folder_walk import Skipped, escaped, walk
from ..find_images import IMAGE_SUFFIXES
from ..source_file import ArchiveMember, SourceFile, read_file

_LARGEST_TEXT = 1 << 33  # bytes of a list or of annotations
_BLOCK = tarfile.BLOCKSIZE
_LINK = stat.S_IFLNK >> 12  # as the upper bits of a zip's attributes


class Place(NamedTuple):
    """A folder: one of the disk's, or one inside an archive."""

    path: Path
    below: str = ""  # the folder in the archive, or below ``path``

    def __str__(self) -> str:
        return f"{self.path}/{self.below}".rstrip("/")


class Listing(NamedTuple):
    """The files of a place by their names below it, with slashes, and what was left out."""

    files: dict[str, SourceFile]
    skipped: list[Skipped]


def find(source: Path, candidates: Sequence[tuple[str, str]]) -> Place | None:
    """The first of some places that is there.

    Args:
        source: where the user keeps the data set.
        candidates: a folder or archive below the source, and a folder in it.
    """
    for name, below in candidates:
        path = source / name
        if path.is_file() and path.suffix in (".tar", ".zip"):
            return Place(path, below)
        if (path / below).is_dir() and path.is_dir():
            return Place(path / below)
    return None


def found(source: Path, candidates: Sequence[tuple[str, str]], what: str) -> Place:
    """The first of some places.

    Raises:
        FileNotFoundError: none is there.
    """
    place = find(source, candidates)
    if place is None:
        names = " or ".join(dict.fromkeys(name + (f"/{below}" if below else "") for name, below in candidates))
        raise FileNotFoundError(f"{source} has no {what}; looked for {names}")
    return place


def list_files(place: Place, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Listing:
    """The files with some suffixes in a place, in folders of any depth. A tar stands for a folder of its name.

    Raises:
        ValueError: an archive is damaged, compressed as a whole, or cut off.
    """
    listing = Listing({}, [])
    if place.path.is_dir():
        walked = walk(place.path, (*suffixes, ".tar"))
        listing.skipped.extend(walked.skipped)
        members = _on_disk(place.path, sorted(walked.files), listing.skipped)
    elif place.path.suffix == ".zip":
        members = _in_zip(place.path, listing.skipped)
    else:
        members = _in_tar_file(place.path, listing.skipped)
    below = place.below.strip("/") + "/" if place.below and not place.path.is_dir() else ""
    others = 0
    for name, file in members:
        short = name.removeprefix(below)
        if below and short == name:
            continue
        if not short.lower().endswith(suffixes):
            others += 1
        elif short in listing.files:
            listing.skipped.append(Skipped(escaped(name), escaped(str(file)), "is there twice; the first is taken"))
        else:
            listing.files[short] = file
    if others:
        reason = f"{others} file(s) of other kinds: only {', '.join(suffixes)} are read here"
        listing.skipped.append(Skipped(".*", escaped(str(place)), reason))
    return listing


def read_text(source: Path, candidates: Sequence[tuple[str, str]], what: str) -> str:
    """The text of a file that is there under one of some names, in a folder or (zip, name) in an archive.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no UTF-8.
    """
    for name, below in candidates:
        path = source / name
        try:
            if not below and path.is_file():
                return read_file(path, _LARGEST_TEXT).decode()
            if below and path.is_file() and path.suffix == ".zip":
                members = dict(_in_zip(path, []))
                if below in members:
                    return read_file(members[below], _LARGEST_TEXT).decode()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text") from None
    names = " or ".join(dict.fromkeys(f"{name}: {below}" if below else name for name, below in candidates))
    raise FileNotFoundError(f"{source} has no {what}; looked for {names}")


def read_json(source: Path, candidates: Sequence[tuple[str, str]], what: str) -> dict[str, Any]:
    """The object in a JSON file; else as ``read_text``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    text = read_text(source, candidates, what)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the {what} in {source} are no JSON ({error}); get the file again") from None
    if not isinstance(said, dict):
        raise ValueError(f"the {what} in {source} must hold one object")
    return said


def _on_disk(folder: Path, files: Sequence[Path], skipped: list[Skipped]) -> Iterator[tuple[str, SourceFile]]:
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".tar":
            for inner, member in _in_tar_file(path, skipped):
                yield f"{name.removesuffix('.tar')}/{inner}", member
        else:
            yield name, path


def _in_zip(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, SourceFile]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged or no zip ({error}); get it again") from None
    for entry in entries:
        reason = _reason_to_leave(entry.filename)
        if entry.external_attr >> 28 == _LINK:
            reason = "is a link inside the archive"
        elif entry.flag_bits & 1:
            reason = "is encrypted"
        if reason:
            skipped.append(Skipped(escaped(entry.filename), escaped(str(path)), reason))
        elif not entry.is_dir():
            yield entry.filename, ArchiveMember(path, entry.filename, entry.file_size, None)


def _in_tar_file(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, SourceFile]]:
    with os.fdopen(open_regular(path), "rb") as file:
        yield from _in_tar(file, path, "", 0, os.fstat(file.fileno()).st_size, skipped)


def _in_tar(
    file: BinaryIO, path: Path, folder: str, begin: int, size: int, skipped: list[Skipped]
) -> Iterator[tuple[str, SourceFile]]:
    """The regular files of a tar that begins at a byte of a file; tars in it are gone through in their turn."""
    file.seek(begin)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                name, offset = folder + entry.name.removeprefix("./"), entry.offset_data
                reason = _reason_to_leave(entry.name)
                if not reason and not entry.isdir() and (not entry.isreg() or entry.sparse):
                    reason = "is no regular file"
                if offset + entry.size > begin + size:
                    raise tarfile.ReadError(f"{name} should have {entry.size} bytes and is cut off")
                if reason:
                    skipped.append(Skipped(escaped(name), escaped(str(path)), reason))
                elif name.endswith(".tar"):
                    back = file.tell()
                    yield from _in_tar(file, path, f"{name.removesuffix('.tar')}/", offset, entry.size, skipped)
                    file.seek(back)
                elif not entry.isdir():
                    yield name, ArchiveMember(path, name, entry.size, offset)
            _check_end(file, archive.offset, begin + size)
    except tarfile.TarError as error:
        where = f"{folder.rstrip('/')}.tar in {path}" if folder else str(path)
        raise ValueError(
            f"{where} is damaged, cut off, or compressed as a whole ({error}); get it again, or unpack it"
        ) from None


def _check_end(file: BinaryIO, offset: int, end: int) -> None:
    """Makes sure that a tar ends with zeros, not at a damaged header, where Python's reader ends without a word."""
    file.seek(offset)
    block = file.read(min(_BLOCK, max(0, end - offset)))
    if block != bytes(_BLOCK):
        raise tarfile.ReadError(f"the header at byte {offset} is damaged" if block else "its end is missing")


def _reason_to_leave(name: str) -> str:
    if "\\" in name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return "its name leads out of the archive"
    return ""
