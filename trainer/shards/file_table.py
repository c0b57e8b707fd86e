"""Many files in little memory: their folders, names, sizes and dates as columns."""

from array import array
from collections.abc import Sequence
from pathlib import Path, PosixPath
from typing import overload


class SeenFile(PosixPath):
    """A path with the size and date that its folder's listing has, so that it need not be asked for again."""

    seen: tuple[int, int] | None = None  # bytes, and nanoseconds of the date


class FileTable(Sequence[Path]):
    """Files that a walk found, in the order in which it did; some 50 bytes each."""

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._folder_of = array("I")
        self._names = bytearray()
        self._ends = array("Q", [0])
        self._sizes = array("Q")
        self._dates = array("q")

    def enter(self, folder: Path) -> None:
        """The files that are added next lie in this folder."""
        self._folders.append(str(folder))

    def add(self, name: str, size: int, date: int) -> None:
        """Adds a file of the folder that was entered last."""
        self._folder_of.append(len(self._folders) - 1)
        self._names += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._names))
        self._sizes.append(size)
        self._dates.append(date)

    def name(self, number: int) -> str:
        """The path of a file as text."""
        last = self._names[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogateescape")
        return f"{self._folders[self._folder_of[number]].rstrip('/')}/{last}"

    def seen(self, number: int) -> tuple[int, int]:
        """The size and the date of a file."""
        return self._sizes[number], self._dates[number]

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, number: int) -> Path: ...
    @overload
    def __getitem__(self, number: slice) -> list[Path]: ...
    def __getitem__(self, number: int | slice) -> Path | list[Path]:
        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        file = SeenFile(self.name(range(len(self))[number]))
        file.seen = self.seen(number)
        return file
