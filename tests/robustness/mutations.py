"""Seeded damage to bytes: what bad memory, cut downloads, other programs and strangers do to files.

``mutated(data, others, random.Random(seed))`` is a pure function of its arguments, so that every case can be run again.
"""

import json
import math
import random
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress

Mutation = Callable[[bytearray, Sequence[bytes], random.Random], bytearray]

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_WORDS = (
    b"-1", b"0", b"1e309", b"nan", b"9" * 30, b"null", b"[]", b"{}", b'"x"', b"../..", b"\xff\xfe", b"\0", b"*", b"-",
)  # fmt: skip


def mutated(data: bytes, others: Sequence[bytes], draws: random.Random) -> bytes:
    """One to three mutations of the data; ``others`` are files whose pieces may be spliced in."""
    changed = bytearray(data)
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        changed = draws.choice(_MUTATIONS)(changed, others, draws)
    return bytes(changed)


def resealed(index: bytes) -> bytes:
    """A shard's index whose checksums are right whatever else is wrong with it, as only intent makes one."""
    lines = index.split(b"\n", 2)
    if len(lines) < 3:
        return index
    first, header, arrays = lines
    with suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raw = json.loads(header)
        place = checked = 0
        for name, dtype, shape in raw["arrays"]:
            length = math.prod(shape) * int(dtype[-1:])
            checked = checked if name == "layouts" else zlib.crc32(arrays[place : place + length], checked)
            place += length
        header = json.dumps({**raw, "digest": checked}, sort_keys=True).encode()
    words = first.rpartition(b" ")[0]
    return b"%s %08x\n%s\n%s" % (words, zlib.crc32(header + b"\n"), header, arrays)


def _flip_bits(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    for _flip in range(draws.choice((1, 1, 2, 8))):
        if data:
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    return data


def _overwrite_number(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    """An integer of 1 to 8 bytes, of either byte order, more often near the head of the file."""
    width = draws.choice((1, 2, 4, 8))
    number = draws.choice(_NUMBERS) & (1 << 8 * width) - 1
    start = int(len(data) * draws.random() ** 3)
    data[start : start + width] = number.to_bytes(width, draws.choice(("big", "little")))
    return data


def _replace_word(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    """A decimal number or a word of a text by something of another kind."""
    found = list(re.finditer(rb"\d+|[a-z_]{2,}", bytes(data[:20_000])))
    if found:
        match = draws.choice(found)
        data[match.start() : match.end()] = draws.choice(_WORDS)
    return data


def _delete(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    start = draws.randrange(len(data) + 1)
    del data[start : start + draws.choice((1, 3, 16, 512, 4096))]
    return data


def _truncate(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    return data[: draws.randrange(len(data) + 1)]


def _repeat(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    start = draws.randrange(len(data) + 1)
    block = data[start : start + draws.choice((1, 16, 512, 2048))]
    return data[:start] + block * draws.choice((2, 3, 50)) + data[start:]


def _insert(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    start = draws.randrange(len(data) + 1)
    return data[:start] + draws.randbytes(draws.choice((1, 4, 100, 512))) + data[start:]


def _splice(data: bytearray, others: Sequence[bytes], draws: random.Random) -> bytearray:
    """The head of this file and the tail of another one."""
    other = draws.choice(others) if others else b""
    return data[: draws.randrange(len(data) + 1)] + other[draws.randrange(len(other) + 1) :]


def _grow(data: bytearray, _: Sequence[bytes], draws: random.Random) -> bytearray:
    return data + bytes(draws.choice((1, 512, 10_240)))


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _overwrite_number, _replace_word, _delete, _truncate, _repeat, _insert, _splice, _grow,
)  # fmt: skip
