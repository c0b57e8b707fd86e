"""Reading stretches of bytes of a file, wherever it lies."""

import os
from collections.abc import Sequence
from typing import Protocol

from ..files import open_regular


class Ranges(Protocol):
    """A file of which any stretch can be read."""

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), in order; fewer than ``size`` only where the file ends.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be reached.
        """
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...

    def renew(self) -> None:
        """Lets go of what is kept of its bytes, which are not those that were packed."""
        ...


class LocalFile:
    """A file of the local file system. Safe to use in forked processes at once, for it has no position."""

    def __init__(self, path: str) -> None:
        self._handle = open_regular(path)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), in order; fewer than ``size`` only where the file ends."""
        return [self._read(offset, size) for offset, size in ranges]

    def read_whole(self, offset: int, size: int) -> bytes | None:
        """The bytes of one stretch, or None where the system does not give all of them at once."""
        try:
            data = os.pread(self._handle, size, offset)
        except OSError:
            return None
        return data if len(data) == size else None

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._handle, size, offset)
        while 0 < len(data) < size:  # the system may give less than asked, and at most 2 GiB at once
            more = os.pread(self._handle, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)

    def renew(self) -> None:
        """Nothing is kept."""
