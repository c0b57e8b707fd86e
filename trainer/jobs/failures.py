"""The first cause of a failed job, on the last screen of every rank.

When a rank fails, the others lose contact with it a moment later and fail too, and their complaints bury the cause. So
the rank that fails on its own leaves its reason in the run's folder, and those that merely lost contact repeat it.

    RUN/failure.txt    the reason of the first rank that failed in this job
"""

import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from ..checkpoint.save_error import SaveError
from ..distributed import ranks
from ..shards.errors import TooManySampleErrorsError
from . import side_files
from .side_files import FAILURE

PATIENCE_S = 3.0  # for the reason of another rank to reach this one's disk
# What gloo and NCCL say when a peer is gone or silent; torch gives gloo's errors no class of their own.
LOST_CONTACT = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out", "TCPStore")


class FailedError(Exception):
    """The job failed in mid-training, and why has been said."""


@contextmanager
def first_failure_reported(run: Path) -> Iterator[None]:
    """Around the training: says the first cause of a failure on every rank.

    Raises:
        FailedError: something failed; a save that failed and an interrupt from the keyboard pass unchanged.
    """
    try:
        yield
    except (SaveError, KeyboardInterrupt):
        raise
    except Exception as error:
        here = f"rank {ranks.rank()} on {socket.gethostname()}"
        if _lost_contact(error):
            print(f"{here} lost contact with another rank. {_first_cause(run)}", file=sys.stderr, flush=True)
        else:
            reason = "".join(traceback.format_exception(error))
            _leave(run, f"{here}: {type(error).__name__}: {error}\n\n{reason}")
            shown = "" if isinstance(error, TooManySampleErrorsError) else reason  # whose words say all of it
            print(f"{shown}{here} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise FailedError from None


def forget(run: Path) -> None:
    """Before a job begins: what an earlier one has failed of."""
    side_files.remove(run / FAILURE)


def reported_failures(run: Path) -> str:
    """The first cause in one line: rank, host, error; empty where nobody left one, or is just writing it."""
    if not side_files.is_free(run / FAILURE):
        return ""
    try:
        line, end, _ = (run / FAILURE).read_text(encoding="utf-8", errors="replace").partition("\n")
    except OSError:
        return ""
    return line if end else ""


def _lost_contact(error: Exception) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_CONTACT)


def _first_cause(run: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not (cause := reported_failures(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if cause:
        return f"The first cause: {cause}"
    return "None of them said why: it was killed (out of memory?), or it hangs, or its machine is gone."


def _leave(run: Path, text: str) -> None:
    """Only the first rank's reason stays."""
    try:
        with (run / FAILURE).open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return  # there is one already, or the disk is full, and the screen has it anyway
