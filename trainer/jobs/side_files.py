"""The small files that a run leaves in its folder, and how they differ from a user's of the same names."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..checkpoint.storage import LATEST
from ..distributed.process import deepspeed_log
from ..files import head, part_of
from ..training.arrays import FILE as ARRAYS
from ..training.metrics import FILE as METRICS
from ..training.metrics import RANKS

STOP_REQUEST, EXIT_CODE, FAILURE = "stop-requested", "exit-code", "failure.txt"
LOCK = ".lock"
SEEN = ".preflight"  # by which the ranks find out whether they see the same folder
REMAINING_HOSTS = "remaining-hosts.txt"
HOSTS_MARK = b"# Written by smalti supervise: the hostfile without the hosts that did not answer.\n"
# How each begins.
_LOOKS: Mapping[str, re.Pattern[bytes]] = {
    METRICS: re.compile(rb'\{"step": \d+, "seconds": '),
    ARRAYS: re.compile(rb'\{"step": \d+, "name": "'),
    RANKS: re.compile(rb'\{"step": \d+, '),
    "environment.jsonl": re.compile(rb'\{"began": "'),
    deepspeed_log.FILE: re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ "),
    LATEST: re.compile(rb"step-\d{8}\n?\Z"),
    STOP_REQUEST: re.compile(rb"\Z"),
    EXIT_CODE: re.compile(rb"\d{1,3}\n?\Z"),
    FAILURE: re.compile(rb"rank \d+ on "),
    REMAINING_HOSTS: re.compile(re.escape(HOSTS_MARK)),
    LOCK: re.compile(rb"process \d+ on "),
    SEEN: re.compile(rb"[0-9a-f]{16}\Z"),
    "wandb-id.txt": re.compile(rb"[0-9a-f]{8}\n?\Z"),
    "wandb-sent.txt": re.compile(rb"\d+\n\Z"),
}


def is_free(path: Path) -> bool:
    """Whether a run may write or remove a file of this name: it is not there, empty, or looks as a run writes it."""
    try:
        found = head(path)
    except FileNotFoundError:
        return not path.is_symlink()
    except OSError:
        return False
    return _is_ours(path.name, found)


def _is_ours(name: str, beginning: bytes) -> bool:
    """Whether what a file begins with is what a run writes under a name; a run may have written nothing yet."""
    return not beginning or _LOOKS[name].match(beginning) is not None


def is_there(path: Path) -> bool:
    """Whether there is such a file of a run's."""
    return path.exists() and is_free(path)


def taken(run: Path) -> list[Path]:
    """The files of somebody else's in a folder that have names which a run writes to."""
    return [run / name for name in _LOOKS if not is_free(run / name)]


def remove(path: Path) -> None:
    """Remove a file of a run, if it is there and is one."""
    if is_free(path):
        path.unlink(missing_ok=True)


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process of a run left of them: the run is held, so nobody else writes them."""
    for name in _LOOKS:
        part = part_of(run / name)
        with suppress(OSError):
            if _is_ours(name, head(part)):
                part.unlink()


def remove_all(run: Path) -> None:
    """Remove what a run leaves in its folder besides checkpoints, previews, its config and the lock, which is held."""
    for name in set(_LOOKS) - {LOCK}:
        with suppress(OSError):
            remove(run / name)
