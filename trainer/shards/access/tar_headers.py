"""The headers of a tar (POSIX.1-1988, GNU and pax forms): numbers, names, and whether they are sound."""

from ..folder_walk import escaped

BLOCK = 512  # bytes
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # kinds of entries: links, devices, folders, pipes
SPARSE = "is a sparse file, which lies in pieces; make the tar without --sparse"
_COMPRESSED = {  # first bytes: what it is, and what makes a plain tar of it
    b"\x1f\x8b": ("compressed by gzip", "gunzip"),
    b"BZh": ("compressed by bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("compressed by xz", "unxz"),
    b"(\xb5/\xfd": ("compressed by zstd", "unzstd"),
    b"\x04\x22M\x18": ("compressed by lz4", "unlz4"),
    b"PK\x03\x04": ("a zip archive", "unzip, then tar"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x, then tar"),
}


class DamagedTarError(ValueError):
    """A tar cannot be read to its end; the text names the file and the byte."""


def number(field: bytes) -> int:
    """A number in a header: octal, or binary with the first bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def plain_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return name_of(prefix + b"/" + name if prefix else name)


def name_of(name: bytes) -> str:
    """A member's name as text for a key: printable, below the folder, whatever its bytes are."""
    parts = escaped(name).lstrip("/").split("/")
    return "/".join("__" if part == ".." else part for part in parts)


def pax_records(data: bytes) -> dict[str, str]:
    """The records "LENGTH NAME=VALUE" of an extended header."""
    records = {}
    while data.rstrip(b"\0"):
        length = int(data.split(b" ", 1)[0])
        if not 0 < length <= len(data):
            raise ValueError(length)
        name, equals, value = data[:length].split(b" ", 1)[1].rstrip(b"\n").partition(b"=")
        if not equals:
            raise ValueError(name)
        records[escaped(name)] = name_of(value) if name == b"path" else escaped(value)
        data = data[length:]
    return records


def check_kind(header: bytes, name: str) -> None:
    """Tells by its first header what a file is that is no tar at all."""
    for begin, (kind, way_out) in _COMPRESSED.items():
        if header.startswith(begin):
            raise DamagedTarError(f"{name} is {kind}; make a plain tar of it: {way_out}")
    if not header:
        raise DamagedTarError(f"{name} is empty, which is no tar")


def check_header(header: bytes, name: str, place: int) -> None:
    """Makes sure that a header is whole and has its checksum."""
    if len(header) < BLOCK:
        raise DamagedTarError(f"{name} is cut off at byte {place + len(header)}: the end of the archive is missing")
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    try:
        sound = number(header[148:156]) == total
    except ValueError:
        sound = False
    if not sound:
        raise DamagedTarError(f"{name}, byte {place}: the header is damaged, its checksum is wrong")
