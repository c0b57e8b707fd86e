"""Files of JSON lines that each belong to a step: written one by one, rewound with the run, read without trust."""

import sys
from pathlib import Path
from typing import Any

from .. import bounded_json, files


def read(path: Path) -> list[dict[str, Any]]:
    """What the lines say, oldest first; one that a kill cut short or that is damaged is left out."""
    return [said for _, said in _lines(path)]


def rewind(path: Path, step: int) -> None:
    """Take away what was written after a step; at step 0 everything. Nothing happens where there is no such file."""
    if path.exists():
        files.write_text(path, "".join(line for line, said in _lines(path) if 0 < step >= said["step"]))


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The whole lines, each with what it says; others are counted on stderr."""
    found = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for line in lines:
        try:
            said = bounded_json.parsed(line)
        except ValueError:
            continue
        if line.endswith("\n") and isinstance(said, dict) and type(said.get("step")) is int:
            found.append((line, said))
    if len(lines) - len(found) > (1 if lines and not lines[-1].endswith("\n") else 0):
        print(f"passing over damaged lines of {path}", file=sys.stderr, flush=True)
    return found
