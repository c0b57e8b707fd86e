"""Before data or weights are touched: are the ranks of this job fit to work together?

Minutes of a queue are lost to one node with another version, a wrong clock or an unmounted disk. Every rank tells its
facts, all compare them, and the error names host and rank.
"""

import hashlib
import platform
import secrets
import shutil
import socket
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from ..distributed import ranks
from .side_files import SEEN

CLOCKS_S = 30.0  # apart; wandb and file times go wrong beyond
BYTES = 1 << 24  # of the all-reduce that is timed
VISIBLE_S = 10.0  # for a file of rank 0 to be seen by the others; network file systems take a while
PACKAGE = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "deepspeed", "webdataset", "numpy")


class Facts(NamedTuple):
    """What one rank tells about itself."""

    rank: int
    host: str
    device: str
    versions: dict[str, str]
    config: str  # SHA-256 of the resolved config
    clock: float  # seconds since 1970
    sees_folder: bool  # whether the run's folder is the one that rank 0 sees


def versions() -> dict[str, str]:
    """Of everything that decides a run's numbers."""
    known = {"python": platform.python_version(), "smalti": source_digest(PACKAGE)}
    return known | {name: version(name) for name in PACKAGES}


@cache
def source_digest(root: Path) -> str:
    """Of the source files of the package in a folder, whatever its version says.

    Raises:
        FileNotFoundError: a part of the package is not there.
    """
    seen = hashlib.sha256()
    parts = [root / part for part in ("models", "trainer", "launch")]
    for part in parts:
        if not (part / "__init__.py").is_file():
            raise FileNotFoundError(f"{part} is not a part of the package")
    for path in sorted(path for part in parts for path in part.rglob("*.py")):
        seen.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return seen.hexdigest()[:12]


def check(folder: Path, config: str, needed: int) -> str:
    """Compare the ranks and return one line about the job. Every rank must call this.

    Args:
        folder: the run's.
        config: the resolved config, as text.
        needed: bytes of one checkpoint.

    Raises:
        ValueError: the ranks do not fit together, or the disk cannot hold two checkpoints; all that is wrong is named.
    """
    sees = _sees(folder)
    facts = ranks.all_gather_object(_facts(config, sees))
    problems = differences(facts)
    free = shutil.disk_usage(folder).free if ranks.rank() == 0 else None
    free = ranks.broadcast_object(free) or 0
    if free < 2 * needed:
        problems.append(
            f"{folder} has {free / 1e9:.2f} GB free, and a checkpoint needs {needed / 1e9:.2f} GB, twice while one "
            "replaces another; make room, or choose another folder"
        )
    if problems:
        raise ValueError("this job cannot run:" + "".join(f"\n  {problem}" for problem in problems))
    hosts = len({fact.host for fact in facts})
    speed = f"{_gigabytes_per_second():.2f} GB/s reduced; " if len(facts) > 1 else ""
    return (
        f"{len(facts)} rank(s) on {hosts} host(s), {facts[0].device}; {speed}"
        f"{free / 1e9:.1f} GB free, about {needed / 1e9:.2f} GB a checkpoint"
    )


def differences(facts: Sequence[Facts]) -> list[str]:
    """What is not the same on all ranks, each problem with the rank and host that differs from rank 0."""
    first = facts[0]
    problems = []
    for other in facts[1:]:
        place = f"rank {other.rank} on {other.host}"
        for name in sorted(first.versions):
            if other.versions[name] != first.versions[name]:
                problems.append(f"{place} has {name} {other.versions[name]}, rank 0 {first.versions[name]}")
        if other.device != first.device:
            problems.append(f"{place} has a {other.device}, rank 0 a {first.device}")
        if other.config != first.config:
            problems.append(f"{place} read another config than rank 0; is its file the same, and its --set?")
        if abs(other.clock - first.clock) > CLOCKS_S:
            problems.append(f"the clock of {place} is {other.clock - first.clock:+.0f} s off that of rank 0; set it")
    problems += [
        f"rank {fact.rank} on {fact.host} does not see rank 0's run folder; it must lie on a disk that all nodes share"
        for fact in facts
        if not fact.sees_folder
    ]
    return problems


def _facts(config: str, sees: bool) -> Facts:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    digest = hashlib.sha256(config.encode()).hexdigest()
    ranks.barrier()  # so that the clocks are read at about one time
    return Facts(ranks.rank(), socket.gethostname(), device, versions(), digest, time.time(), sees)


def _sees(folder: Path) -> bool:
    """Whether a file that rank 0 leaves in the folder is there for this rank."""
    token = ranks.broadcast_object(secrets.token_hex(8))
    place = folder / SEEN  # always of the same name, so that what a killed job has left is written over
    if ranks.rank() == 0:
        place.write_text(token, encoding="utf-8")
    ranks.barrier()
    deadline = time.monotonic() + VISIBLE_S
    while not (seen := _holds(place, token)) and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks.barrier()
    if ranks.rank() == 0:
        place.unlink(missing_ok=True)
    return seen


def _holds(place: Path, token: str) -> bool:
    try:
        return place.read_text(encoding="utf-8") == token
    except (OSError, ValueError):
        return False


def _gigabytes_per_second() -> float:
    """The pace of an all-reduce, as the bytes of the tensor over the time, the second of two."""
    tensor = torch.zeros(BYTES // 4, device=ranks.device())
    for _ in range(2):
        ranks.barrier()
        began = time.monotonic()
        ranks.all_reduce_sum_(tensor)[0].item()
    return BYTES / max(time.monotonic() - began, 1e-9) / 1e9
