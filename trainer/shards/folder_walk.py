"""One walk through a folder of strangers' files: each file is found, or named, or counted with others of its kind."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import kind_of


class Skipped(NamedTuple):
    """A sample that is left out, and why."""

    key: str
    file: str
    reason: str


class Walk(NamedTuple):
    """What lies below a folder."""

    files: list[Path]  # regular files of the wanted suffixes
    skipped: list[
        Skipped
    ]  # loops, pipes, broken links, unreadable folders; other suffixes and hidden files in one line


def walk(folder: Path, suffixes: tuple[str, ...]) -> Walk:
    """The files with some suffixes below a folder. Links are followed; every folder is read once, so loops end."""
    files: list[Path] = []
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
        for entry in _entries(place, folder, skipped):
            path = place / entry.name
            if entry.name.startswith("."):
                hidden += 1
            elif path.is_dir():
                if entry.is_symlink():
                    links.append(path)
                elif _identity(path) not in seen:
                    seen.add(_identity(path))
                    folders.append(path)
            elif not entry.name.lower().endswith(suffixes):
                others[path.suffix.lower() or "without a suffix"] += 1
            elif path.is_file():
                files.append(path)
            else:
                skipped.append(_left(path, folder, _oddity(path)))
    counted = [
        (suffix, f"{count} file(s) {suffix}: only {', '.join(suffixes)} are read here")
        for suffix, count in others.items()
    ]
    if hidden:
        counted.append((".*", f"{hidden} hidden file(s) or folder(s), such as .DS_Store and ._ of macOS"))
    skipped += [Skipped(escaped(what), escaped(str(folder)), reason) for what, reason in sorted(counted)]
    return Walk(sorted(files), skipped)


def escaped(name: str | bytes) -> str:
    """A name as text that can be printed and encoded: bytes that are not UTF-8 and control characters as ``\\xNN``."""
    data = os.fsencode(name) if isinstance(name, str) else name
    text = data.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _entries(place: Path, folder: Path, skipped: list[Skipped]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        skipped.append(_left(place, folder, f"cannot be read: {error.strerror}"))


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
