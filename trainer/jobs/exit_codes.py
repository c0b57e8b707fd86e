"""Exit code and stop request of a job, as files in the run's folder.

Launchers do not pass on the signals that they get: DeepSpeed's leaves its ranks unsignalled and may end with 0 when it
is killed, torchrun makes every code a 1, and no signal reaches the ranks of another node. The folder is on every node.

    RUN/stop-requested   touched while the job is asked to save and leave
    RUN/exit-code        the exit code that rank 0 of the last job left with; a killed one leaves none
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..checkpoint.save_error import SaveError
from ..distributed import ranks
from ..exit_code import ExitCode
from ..files import write_text
from . import side_files
from .side_files import EXIT_CODE, STOP_REQUEST


class Ending:
    """Holds what a job will have ended with, unless it fails."""

    code: int = ExitCode.FAILED


@contextmanager
def recorded_exit_code(run: Path) -> Iterator[Ending]:
    """Around all that a job does in its run's folder: rank 0 leaves the exit code there, also after an error."""
    ending = Ending()
    try:
        yield ending
    except Exception as error:
        ending.code = code_of(error)
        raise
    finally:
        if ranks.rank() == 0:
            with suppress(OSError):  # a full disk, of which the launcher's code tells
                if side_files.is_free(run / EXIT_CODE):
                    write_text(run / EXIT_CODE, f"{int(ending.code)}\n")


def code_of(error: Exception) -> int:
    """The exit code of a training that ended with an error."""
    if isinstance(error, SaveError):
        return ExitCode.NOT_SAVED
    return ExitCode.WRONG if isinstance(error, OSError | ValueError) else ExitCode.FAILED


def last(run: Path) -> int | None:
    """What rank 0 of the last job left with; None where it did not come to tell."""
    try:
        return int((run / EXIT_CODE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def forget(run: Path) -> None:
    """Before a job begins: how the one before ended."""
    side_files.remove(run / EXIT_CODE)


def request_stop(run: Path) -> None:
    """Ask the job that trains in a folder to save and leave.

    To be repeated until the job has ended: a rank that starts takes what it finds for an old request.
    """
    run.mkdir(parents=True, exist_ok=True)
    (run / STOP_REQUEST).touch()


def withdraw_stop_request(run: Path) -> None:
    """Nobody asks any more."""
    side_files.remove(run / STOP_REQUEST)
