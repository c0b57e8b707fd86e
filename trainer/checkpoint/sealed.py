"""JSON files that carry a checksum of their own bytes: one flipped bit anywhere in them is found.

The text begins with ``{"format": 2, "sha256": "..."``. The checksum is that of the whole text with zeros in its place.
A file of an earlier version has neither (or ``"format": 1``) and is read as it is; no single flipped bit turns a sealed
file into such a one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import bounded_json

FORMAT = 2
CHECKSUM = "sha256"
_ZEROS = "0" * 64


class Opened(NamedTuple):
    """What a file says, and whether a checksum vouches for it."""

    content: dict[str, Any]  # its format included, its checksum not
    is_sealed: bool


def sealed(content: Mapping[str, Any]) -> str:
    """The text of a sealed file."""
    head = {"format": FORMAT, CHECKSUM: _ZEROS}  # first, so that no other zeros come before
    text = json.dumps(head | dict(content) | head, indent=1) + "\n"
    return text.replace(_ZEROS, hashlib.sha256(text.encode()).hexdigest(), 1)


def opened(path: Path) -> Opened:
    """What a file says, once its checksum is known to be right.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what was written, no JSON object, or beyond the limits of ``bounded_json``.
    """
    data = bounded_json.read_bytes(path)
    content = bounded_json.parsed(data)
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    if CHECKSUM not in content and content.get("format", 1) == 1:
        return Opened(content, False)
    claimed = content.pop(CHECKSUM, None)
    if content.get("format") != FORMAT:
        raise ValueError(f"its format must be {FORMAT}, got {content.get('format')!r}")
    if not isinstance(claimed, str) or len(claimed) != len(_ZEROS):
        raise ValueError(f"its {CHECKSUM} is missing or cut")
    if hashlib.sha256(data.replace(claimed.encode(), _ZEROS.encode(), 1)).hexdigest() != claimed:
        raise ValueError("it is not what was written (its checksum differs)")
    return Opened(content, True)
