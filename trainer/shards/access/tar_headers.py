"""The numbers and names in the headers of a tar (POSIX.1-1988, GNU and pax forms)."""

from ..folder_walk import escaped


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
