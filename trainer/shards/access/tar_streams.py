"""Tars as streams of bytes, from this machine, a store or a command, with every header checked on the way.

A reader of streams ends quietly at a damaged header, and samples are lost unseen; here it gets no damaged header.
"""

import os
import selectors
import subprocess
from typing import BinaryIO, Protocol

from ...files import open_regular
from ..byte_ranges import Ranges
from ..patterns import is_remote, without_secrets
from ..remote import PIPE, RemoteConfig, RemoteFile, open_remote
from .requests import patiently
from .tar_headers import BLOCK, SPARSE, WITHOUT_DATA, DamagedTarError, check_header, check_kind, number

_CHUNK = 8 << 20  # bytes of a store asked for at once
_DRAINED = 1 << 20


class ByteStream(Protocol):
    """Bytes that can be read once, in order."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; fewer than ``size`` only at the end.

        Raises:
            OSError: they cannot be had.
        """
        ...

    def close(self) -> None:
        """Lets go of where they come from."""
        ...


class TarStream:
    """The bytes of a tar; none of a damaged header, or of what follows it, is given out.

    Args:
        source: where they come from.
        name: of the tar, for messages.

    Attributes:
        fault: what was found wrong, or went wrong, if anything did.
    """

    def __init__(self, source: ByteStream, name: str) -> None:
        self.fault: Exception | None = None
        self._source = source
        self._name = name
        self._place = 0  # bytes seen
        self._to_header = 0  # bytes until the next header begins
        self._header = bytearray()
        self._end = -1  # where the zeros at the end begin

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            DamagedTarError: a header among them is damaged, or the tar is cut off.
            OSError: they cannot be had.
        """
        try:
            data = self._source.read(size)
            self._follow(data)
            if len(data) < size:
                self._check_cut()
        except (OSError, DamagedTarError) as error:
            self.fault = type(error)(str(error))  # the other one is added to by those who let it through
            raise
        return data

    def drain(self) -> None:
        """Reads on to the end, where nothing but zeros may come.

        Raises:
            DamagedTarError: something else comes, or too few of them.
            OSError: it cannot be had.
        """
        while len(self.read(_DRAINED)) == _DRAINED:
            pass

    def close(self) -> None:
        """Lets go of the source."""
        self._source.close()

    def _follow(self, data: bytes) -> None:
        """Takes notice of the headers that begin or go on in these bytes."""
        at = 0
        while at < len(data) and self._end < 0:
            skipped = min(self._to_header, len(data) - at)
            self._to_header -= skipped
            at += skipped
            part = data[at : at + BLOCK - len(self._header)] if not self._to_header else b""
            self._header += part
            at += len(part)
            if len(self._header) == BLOCK:
                self._take(bytes(self._header), self._place + at - BLOCK)
                self._header.clear()
        if self._end >= 0 and data[at:].strip(b"\0"):
            on = self._place + len(data) - len(data[at:].lstrip(b"\0"))
            raise DamagedTarError(f"{self._name}, byte {self._end}: zeros in the middle, data go on at byte {on}")
        self._place += len(data)

    def _take(self, header: bytes, place: int) -> None:
        """Checks a header, and sees where the next one lies."""
        if header == bytes(BLOCK):
            self._end = place
            return
        if not place:
            check_kind(header, self._name)
        check_header(header, self._name, place)
        kind = header[156:157]
        if kind == b"S":
            raise DamagedTarError(f"{self._name}, byte {place}: here {SPARSE}")
        try:
            length = 0 if kind in WITHOUT_DATA else number(header[124:136])
        except ValueError:
            raise DamagedTarError(f"{self._name}, byte {place}: the size in the header is no number") from None
        self._to_header = length + -length % BLOCK

    def _check_cut(self) -> None:
        """Makes sure that a tar whose bytes have ended has its end."""
        if not self._place:
            check_kind(b"", self._name)
        if self._end < 0 or self._place < self._end + 2 * BLOCK:
            raise DamagedTarError(f"{self._name} is cut off at byte {self._place}: the end of the archive is missing")


class _Pieces:
    """A file elsewhere, asked for piece by piece.

    Args:
        file: to read from.
        size: its bytes; None if it can only be found out by reading on.
    """

    def __init__(self, file: Ranges, size: int | None) -> None:
        self._file = file
        self._size = size
        self._place = 0  # behind the bytes at hand
        self._piece = memoryview(b"")  # of it, what was not given out yet

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            if not self._piece and not self._fetched():
                break
            parts.append(self._piece[:size])
            self._piece = self._piece[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _fetched(self) -> bool:
        """Whether there was one more piece to fetch."""
        wanted = _CHUNK if self._size is None else min(_CHUNK, self._size - self._place)
        if wanted <= 0:
            return False
        (data,) = self._file.read_many([(self._place, wanted)])
        self._place += len(data)
        if len(data) < wanted:
            self._size = self._place
        self._piece = memoryview(data)
        return bool(data)

    def close(self) -> None:
        self._file.close()


class _CommandOutput:
    """What a command writes.

    Args:
        command: for the shell, as the config has it.
        seconds: that it may be silent.
    """

    def __init__(self, command: str, seconds: float) -> None:
        self._command = command
        self._seconds = seconds
        self._process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        )

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        parts, missing = [], size
        with selectors.DefaultSelector() as waiting:  # ``select`` itself takes no descriptor above 1023
            waiting.register(output, selectors.EVENT_READ)
            while missing:
                if not waiting.select(self._seconds):
                    raise OSError(f"the command {self._command!r} wrote nothing for {self._seconds:g} s")
                data = os.read(output, missing)
                if not data:
                    self._check_status()
                    break
                parts.append(data)
                missing -= len(data)
        return b"".join(parts)

    def _check_status(self) -> None:
        if status := self._process.wait():
            raise OSError(f"the command {self._command!r} ended with status {status}")

    def close(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


def tar_stream(name: str, remote: RemoteConfig) -> TarStream:
    """The bytes of a shard in order; a command runs only where the name, as a user wrote it, begins with ``pipe:``.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be reached.
    """
    return TarStream(_source(name, remote), without_secrets(name))


def _source(name: str, remote: RemoteConfig) -> ByteStream:
    if not is_remote(name):
        local: BinaryIO = os.fdopen(open_regular(name), "rb")
        return local
    if name.startswith(PIPE):
        return _CommandOutput(name.removeprefix(PIPE), remote.timeout)
    file = open_remote(name, 0, remote)  # stores that send no parts go through the cache
    size = patiently(file.size) if isinstance(file, RemoteFile) else None
    return _Pieces(file, size)
