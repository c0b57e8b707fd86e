"""The report of a packing or an encoding, ``report.json`` beside the shards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import bounded_json
from ..files import read_regular, write_whole

REPORT = "report.json"
_OURS = {"samples", "shards", "skipped"}
_LARGEST = 1 << 32  # bytes


def check(folder: Path) -> None:
    """Makes sure that no other program's report would be replaced.

    Raises:
        ValueError: one would.
    """
    path = folder / REPORT
    if not path.exists():
        return
    try:
        found = bounded_json.parsed(read_regular(path, _LARGEST))
        ours = isinstance(found, dict) and found.keys() >= _OURS
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"{path} is there and was not written by this command; move it away, or choose another folder")


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Leave the report in the folder, whole or not at all."""
    write_whole(folder / REPORT, json.dumps(report, indent=1).encode() + b"\n")
