"""Atomic writes of files and folders, folders held against other commands, fsync and SHA-256."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class ChecksumError(ValueError):
    """Bytes are not those that were packed."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name only when the block ends well.

    Until then it is ``.NAME.part``, which its writer holds locked: a second writer of the same file waits for the
    first, and one that was killed leaves a name that the next one takes over. Whoever waits for the name may rename or
    remove the folder at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
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
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def only_command_in(folder: Path, patience_s: float = 10.0) -> Iterator[None]:
    """Holds a folder, which is made if missing, against other commands that fill it.

    The lock is on the folder itself and falls with the process, so that nothing of it stays. A file system without
    locks is not held.

    Args:
        patience_s: for another command, which may just be ending.

    Raises:
        ValueError: another command holds it, or it is no folder.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder} is {kind_of(folder)}, not a folder; name another one")
    missing = not folder.exists()
    handle = _held(folder, patience_s)
    try:
        yield
    finally:
        if missing:
            with suppress(OSError):  # something was written
                folder.rmdir()
        os.close(handle)


def _held(folder: Path, patience_s: float) -> int:
    """The folder, open and locked. Whoever held it before may have removed it, or put another one in its place."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(OSError):  # no locks here
                    _lock_within(handle, folder, patience_s)
                if os.path.samestat(os.fstat(handle), folder.stat()):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)


def _lock_within(handle: int, folder: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"another command is writing to {folder}; wait for it, or choose another folder"
                ) from None
            time.sleep(0.1)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name, and is on the disk, only when the block ends well.

    Until then it is ``.NAME.part``. What a killed command has left of that is removed by the next one.

    Raises:
        ValueError: something is there already, or another command fills it.
    """
    refuse_present(destination)
    destination = destination.resolve()  # a link to an empty folder is none that a folder could replace
    aside = part_of(destination)
    with only_command_in(destination):
        refuse_present(destination)  # another command may have been quicker
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            yield aside
            for path in (*aside.rglob("*"), aside):
                sync(path)
            aside.replace(destination)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync(destination.parent)


def refuse_present(destination: Path) -> None:
    """Make sure that a folder is new, or empty.

    Raises:
        ValueError: something is there.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"{destination} is there already; name a folder that is not there yet")


def part_of(path: Path) -> Path:
    """What an unfinished file is called; a killed process may leave one."""
    return path.with_name(f".{path.name}.part")


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


def copy_whole(source: Path, path: Path) -> None:
    """Copies a file of any size, whole or not at all, with little of it in memory."""
    with os.fdopen(open_regular(source), "rb") as original, whole_file(path) as file:
        shutil.copyfileobj(original, file, 1 << 22)


def write_own(path: Path, data: bytes, mark: bytes) -> None:
    """Writes a small file, whole or not at all; replaces only what was written like it.

    Args:
        mark: what every file of this sort has near its beginning, the new one too.

    Raises:
        ValueError: another file is there.
    """
    check_own(path, mark)
    write_whole(path, data)


def check_own(path: Path, mark: bytes) -> None:
    """Makes sure, before work is spent, that ``write_own`` will write a file.

    Raises:
        ValueError: another file is there.
    """
    if os.path.lexists(path) and not (path.is_file() and mark in head(path)):
        raise ValueError(f"{path} is there and was not written by this command; move it away, or choose another name")


def head(path: Path) -> bytes:
    """The first bytes of a file, however large it is.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(1 << 16)


def open_regular(path: Path | str) -> int:
    """A descriptor of a regular file, for reading. What would block or never end is refused: pipes, sockets, devices.

    Raises:
        OSError: it is not there, cannot be opened, or is no regular file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would wait for its writer
    except OSError as error:
        if error.errno == errno.ENXIO:  # what the system says of a socket
            raise OSError(f"{path} is not a regular file but {kind_of(path)}") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path} is not a regular file but {kind_of(path)}")
    return handle


def check_regular(path: Path | str) -> None:
    """Make sure that a library can open a file without waiting for ever.

    Raises:
        OSError: it is not there, cannot be opened, or is no regular file.
    """
    os.close(open_regular(path))


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, at most ``limit`` of them, so that reading always ends.

    Raises:
        OSError: it is not there, cannot be read, is no regular file, is larger, or changes while it is read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(f"{path} has {size} bytes, more than the {limit} that are read")
        data = file.read(size + 1)
    if len(data) != size:
        raise OSError(f"{path} should have {size} bytes, and has {'more' if len(data) > size else 'less'}")
    return data


def kind_of(path: Path | str) -> str:
    """What stands under a name, in words."""
    if not os.path.exists(path):  # noqa: PTH110 (a str too)
        return "a link to nothing"
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    mode = os.stat(path).st_mode  # noqa: PTH116 (a str too)
    return next((words for is_kind, words in kinds if is_kind(mode)), "something else")


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Make sure a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all, and on the disk when this returns."""
    write_whole(path, text.encode())
