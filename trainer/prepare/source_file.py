"""A file that is packed: one of its own, or one inside a tar or zip, which is read where it lies."""

import os
import zipfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..files import open_regular, read_regular
from ..shards.file_table import SeenFile

_OPEN_ZIPS = 4  # a process: their tables of contents are read once


class ArchiveMember(NamedTuple):
    """One file in an archive."""

    archive: Path
    name: str
    size: int  # in bytes
    offset: int | None  # of its bytes in a tar; None in a zip

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"


SourceFile = Path | ArchiveMember


def read_file(file: SourceFile, limit: int) -> bytes:
    """The bytes of a file, at most ``limit`` of them.

    Raises:
        OSError: it is not there, cannot be read, is damaged or larger.
    """
    if isinstance(file, Path):
        return read_regular(file, limit)
    if file.size > limit:
        raise OSError(f"{file} has {file.size} bytes, more than the {limit} that are read")
    data = _zipped(file) if file.offset is None else _in_tar(file, file.offset)
    if len(data) != file.size:
        raise OSError(f"{file} should have {file.size} bytes, and has {'more' if len(data) > file.size else 'less'}")
    return data


def stamp(file: SourceFile) -> tuple[int, int] | None:
    """The size and the date of a file, by which a change of it is noticed; None where it is not there."""
    if isinstance(file, SeenFile) and file.seen is not None:
        return file.seen
    path = file if isinstance(file, Path) else file.archive
    if not path.exists():
        return None
    status = path.stat()
    return (status.st_size if isinstance(file, Path) else file.size, status.st_mtime_ns)


def _in_tar(file: ArchiveMember, offset: int) -> bytes:
    with os.fdopen(open_regular(file.archive), "rb") as archive:
        archive.seek(offset)
        return archive.read(file.size)


def _zipped(file: ArchiveMember) -> bytes:
    try:
        with _zip(file.archive).open(file.name) as member:
            return member.read(file.size + 1)  # a member may unpack to more than its header says
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, KeyError, EOFError, ValueError) as error:
        raise OSError(f"{file} cannot be unpacked: {error}") from error


@lru_cache(_OPEN_ZIPS)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
