"""What the disk refuses in mid-training, whatever was being written: one error, one exit code, one way out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SaveError(RuntimeError):
    """Something of the run could not be written; what was written before is as it was."""


@contextmanager
def needed(what: str, run: Path) -> Iterator[None]:
    """Around what writes into a run's folder.

    Raises:
        SaveError: the disk is full, broken or not to be written to.
    """
    try:
        yield
    except OSError as error:
        raise SaveError(f"{what} could not be written: {type(error).__name__}: {error}; {way_out(run)}") from error


def way_out(run: Path) -> str:
    """What to do where a run's folder cannot be written to."""
    try:
        free = f" (there are {shutil.disk_usage(run).free / 1e9:.2f} GB)"
    except OSError:
        free = ""
    return f"make room{free}, see that {run} can be written to, and run the same command again"
