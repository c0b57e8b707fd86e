"""Files that are whole or not there: written aside, synced, renamed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name only when the block ends well.

    Until then it is ``.NAME.part``, which its writer holds locked: a second writer of the same file waits for the
    first, and one that was killed leaves a name that the next one takes over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with _locked(part) as file:
        try:
            file.truncate()
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def _locked(part: Path) -> BinaryIO:
    """The unfinished file, open for writing; where the file system has no locks, without one."""
    while True:
        file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # the writer before gave it its name meanwhile
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        file.close()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file, whole or not at all."""
    with whole_file(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power, where the system allows it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
