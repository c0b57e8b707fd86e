"""A run's folder: one job at a time, and one config from the first step to the last.

    RUN/config.yaml    the run as it was resolved, every default written out
    RUN/.lock          held by rank 0 of the job that trains here
"""

import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from . import config as configs
from . import early, endings, failures, ranks
from .checkpoints import FOLDER, write_text

RESOLVED = "config.yaml"
LOCK_PATIENCE_S = 1800.0
LEFT = "asked to leave"
# What may change when a run goes on: how long it is, how often it looks up, where it lies, who watches, and how it is
# spread over ranks, which changes its numbers by rounding alone.
HARMLESS = (
    "folder", "keep", "wandb", "previews", "loop.", "data.workers", "held_out.workers", "timeout_s", "batch.micro",
    "sequence_ranks",
)  # fmt: skip
HARMLESS_ENDS = (".engine.zero", ".engine.offload_optimizer", ".engine.offload_parameters", ".engine.compile")


def take_over(folder: Path, run: Any, kinds: Any, fresh: bool) -> None:
    """Check a run against what its folder holds of it, and leave its resolved config there. Every rank must call this.

    Args:
        kinds: the dataclasses that a run may be.
        fresh: first remove what the folder holds of a run.

    Raises:
        ValueError: the folder holds a run with another config.
    """
    problem = ranks.from_first(_taken_over(folder, run, kinds, fresh) if ranks.rank() == 0 else None)
    if problem:
        raise ValueError(problem)


def _taken_over(folder: Path, run: Any, kinds: Any, fresh: bool) -> str:
    """Do it; what is wrong when it cannot be done, else nothing."""
    resolved = folder / RESOLVED
    if fresh:
        _clear(folder)
    elif resolved.exists():
        changes = configs.differences(configs.read(kinds, resolved), run)
        harmful = [change for change in changes if not harmless(change)]
        if harmful:
            return (
                f"{folder} holds a run with another config:\n  " + "\n  ".join(harmful) + "\n"
                "go on with the old values, choose another folder, or start anew with --fresh"
            )
        for change in changes:
            print(f"changed since the run began: {change}", flush=True)
    write_text(resolved, configs.dump(run))
    failures.forget(folder)
    endings.forget(folder)
    return ""


def harmless(change: str) -> bool:
    """Whether a run may go on with this difference, as ``config.differences`` words it."""
    return change.startswith(HARMLESS) or change.partition(":")[0].endswith(HARMLESS_ENDS)


def _clear(folder: Path) -> None:
    """Remove what a run leaves in its folder, and nothing else."""
    for path in folder.iterdir():
        if path.name in (FOLDER, "pictures"):
            shutil.rmtree(path)
        elif path.suffix in (".jsonl", ".txt", ".yaml"):
            path.unlink()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Rank 0 holds the folder's lock, so that a job that was orphaned and its successor never write into one run.

    The successor waits; the lock falls with the process that held it.

    Raises:
        ValueError: the other job did not leave in time.
        LeftError: rank 0 was asked to leave while it waited.
    """
    handle: IO[str] | None = None
    problem = ""
    if ranks.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+", encoding="utf-8")
        problem = _lock(handle, folder)
    problem = ranks.from_first(problem)
    if problem == LEFT:
        raise early.LeftError
    if problem:
        raise ValueError(problem)
    try:
        yield
    finally:
        if handle is not None:
            handle.close()


def _lock(handle: IO[str], folder: Path) -> str:
    """Wait for the lock; what is wrong when it does not come, else nothing."""
    waited = 0.0
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            holder = handle.read().strip()
            if early.raised():
                return LEFT
            if waited >= LOCK_PATIENCE_S:
                return f"another job is training in {folder} ({holder}); stop it, or choose another folder"
            if waited % 30 == 0:
                print(f"waiting for another job that trains in {folder} ({holder})", file=sys.stderr, flush=True)
            time.sleep(1.0)
            waited += 1.0
        else:
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
            return ""
