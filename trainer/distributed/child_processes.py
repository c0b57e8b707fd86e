"""Child processes that end with the process that started them, however that one ends."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU in so many by the clock
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def end_with(parent: int, _worker: int = 0) -> None:
    """In a child, first of all: be killed when ``parent`` is gone, even while a write to a full pipe waits for ever.

    Args:
        parent: ``os.getpid()`` of the process that starts the child.
        _worker: a data loader gives its workers their number.
    """
    with suppress(OSError, AttributeError):  # another system than Linux
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was gone before this was asked for
        os._exit(1)


def usable_cores() -> int:
    """How many cores this process may use: those that a scheduler gave it, as far as its container's quota allows."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()
        cores = min(cores, max(int(quota) // int(period), 1))  # ValueError for "max": no quota
    return cores
