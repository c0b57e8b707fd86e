"""What an evaluation found: figures, and the protocol that they hold under, as lines and as a file."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..files import write_own

MARK = b"smalti evaluation"
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # of SHA-256


class Evaluation(NamedTuple):
    """The figures of a network over a data set; equal on all ranks."""

    figures: dict[str, float]
    protocol: dict[str, Any]  # all that decides the figures
    warnings: list[str]  # what a reader of the figures must know
    details: dict[str, Any] = {}  # noqa: RUF012 (never changed): further arrays for the file


UNITS: Mapping[str, str] = {"psnr": "dB"}


def lines(found: Evaluation) -> list[str]:
    """The figures, a line each, what warns of them, and one line of their protocol."""
    width = max(map(len, found.figures))
    table = [f"{name:{width}}  {value:.6g} {UNITS.get(name, '')}".rstrip() for name, value in found.figures.items()]
    said = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in found.protocol.items())
    return [*table, *(f"WARNING: {line}" for line in found.warnings), "under: " + _DIGEST.sub(r"\1", said)]


def write(path: Path, found: Evaluation) -> None:
    """Leave an evaluation in a JSON file; replaces only an earlier one.

    Raises:
        ValueError: another file is there.
    """
    content = {"format": f"{MARK.decode()} 1", **found._asdict()}
    write_own(path, (json.dumps(content, indent=1) + "\n").encode(), MARK)
