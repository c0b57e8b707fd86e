"""What a run ran on: a line in its folder for every start.

RUN/environment.jsonl    {"began": "2026-11-28T01:10:00+00:00", "hosts": ["n1", "n2"], "ranks": 2, "device": ...}
"""

import json
import os
import socket
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import torch

from .. import bounded_json
from ..checkpoint.save_error import needed
from ..distributed import ranks
from . import preflight

FILE = "environment.jsonl"
JOB_VARIABLES = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_RESTART_COUNT")


class Environment(NamedTuple):
    """The hardware, software and job of one start."""

    began: str  # ISO 8601, UTC
    hosts: list[str]  # of each rank
    ranks: int
    device: str
    versions: Mapping[str, str]
    job: Mapping[str, str]  # what SLURM says of it; empty elsewhere


def record(folder: Path) -> Environment:
    """Add a line for this start. Every rank must call this.

    Returns:
        what it says; on every rank.

    Raises:
        SaveError: rank 0 cannot write it.
    """
    hosts = ranks.all_gather_object(socket.gethostname())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    job = {name: os.environ[name] for name in JOB_VARIABLES if name in os.environ}
    found = Environment(began, hosts, ranks.world(), device, preflight.versions(), job)
    if ranks.rank() == 0:
        with needed(f"a line of {FILE}", folder), (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found._asdict()) + "\n")
    return found


def environments(folder: Path) -> list[Environment]:
    """What the starts of a run were recorded with, oldest first; a line that is damaged is left out."""
    path = folder / FILE
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            found.append(Environment(**bounded_json.parsed(line)))
        except (TypeError, ValueError):
            continue
    return found
