"""JSON that others may have written, read within limits of size and depth."""

import json
import os
from pathlib import Path
from typing import Any

from .files import open_regular

MOST_BYTES = 16_000_000  # of a manifest, metadata, an index's notes; a million small objects fit
DEEPEST = 64  # lists and objects inside each other


def parsed(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, or larger or deeper than the limits.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"its JSON has {len(text)} bytes, and at most {MOST_BYTES} are read")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"its JSON is nested deeper than {DEEPEST} levels") from None
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > DEEPEST and depth(value) > DEEPEST:
        raise ValueError(f"its JSON is nested deeper than {DEEPEST} levels")
    return value


def read(path: Path) -> Any:
    """What a JSON file holds; no more of the file is read than the limit.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or larger or deeper than the limits.
    """
    return parsed(read_bytes(path))


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a small file.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: there are more than the limit.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than the {most} bytes that are read of such a file")
    return data


def depth(value: Any) -> int:
    """How many lists and objects lie inside each other."""
    deepest, rest = 0, [(value, 0)]
    while rest:
        part, level = rest.pop()
        deepest = max(deepest, level)
        inside = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        rest += [(each, level + 1) for each in inside] if inside else []
        if isinstance(part, dict | list) and not inside:
            deepest = max(deepest, level + 1)
    return deepest
