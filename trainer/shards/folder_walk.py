"""One walk through a folder of strangers' files: each file is found, or named, or counted with others of its kind."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import kind_of
from .file_table import FileTable


class Skipped(NamedTuple):
    """A sample that is left out, and why."""

    key: str
    file: str
    reason: str


class Walk(NamedTuple):
    """What lies below a folder."""

    files: FileTable  # regular files of the wanted suffixes
    skipped: list[
        Skipped
    ]  # loops, pipes, broken links, unreadable folders; other suffixes and hidden files in one line


def walk(folder: Path, suffixes: tuple[str, ...]) -> Walk:
    """The files with some suffixes below a folder. Links are followed; every folder is read once, so loops end."""
    files = FileTable()
    skipped: list[Skipped] = []
    others, hidden = Counter[str](), 0
    folders, links = deque([folder]), deque[Path]()  # links come last: a folder is known by its own name
    seen = {_identity(folder)}
    while folders or links:
        place = folders.popleft() if folders else links.popleft()
        if place.is_symlink() and place != folder:
            if _identity(place) in seen:
                skipped.append(_left(place, folder, "is a link to a folder that is read already"))
                continue
            seen.add(_identity(place))
        files.enter(place)
        below: list[Path] = []
        for entry in _entries(place, folder, skipped):
            if entry.name.startswith("."):
                hidden += 1
            elif _is(entry.is_dir):
                below.append(place / entry.name)
            elif not entry.name.lower().endswith(suffixes):
                others[Path(entry.name).suffix.lower() or "without a suffix"] += 1
            elif _is(entry.is_file) and (status := _status(entry)) is not None:
                files.add(entry.name, status.st_size, status.st_mtime_ns)
            else:
                path = place / entry.name
                skipped.append(_left(path, folder, _oddity(path)))
        for path in sorted(below):
            if path.is_symlink():
                links.append(path)
            elif _identity(path) not in seen:
                seen.add(_identity(path))
                folders.append(path)
    counted = [
        (suffix, f"{count} file(s) {suffix}: only {', '.join(suffixes)} are read here")
        for suffix, count in others.items()
    ]
    if hidden:
        counted.append((".*", f"{hidden} hidden file(s) or folder(s), such as .DS_Store and ._ of macOS"))
    skipped += [Skipped(escaped(what), escaped(str(folder)), reason) for what, reason in sorted(counted)]
    return Walk(files, skipped)


def escaped(name: str | bytes) -> str:
    """A name as text that can be printed and encoded: bytes that are not UTF-8 and control characters as ``\\xNN``."""
    data = os.fsencode(name) if isinstance(name, str) else name
    text = data.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _entries(place: Path, folder: Path, skipped: list[Skipped]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            yield from entries
    except OSError as error:
        skipped.append(_left(place, folder, f"cannot be read: {error.strerror}"))


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """The size and date of a file, asked for this once; None if it was removed meanwhile."""
    try:
        return entry.stat()
    except OSError:
        return None


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _oddity(path: Path) -> str:
    try:
        return f"is not a file but {kind_of(path)}"
    except OSError:
        return "is a link to nothing, or to itself"


def _left(path: Path, folder: Path, reason: str) -> Skipped:
    return Skipped(escaped(str(path.relative_to(folder))), escaped(str(path)), reason)
