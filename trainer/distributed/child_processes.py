"""Child processes that end with the process that started them, however that one ends."""

import ctypes
import os
import signal
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU in so many by the clock
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_SEMAPHORES_OF_A_POOL, _SEMAPHORES_OF_A_WORKER = 8, 3  # a queue and an event for all, a queue for each, in torch


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


def check_semaphores(workers: int) -> None:
    """Make sure that so many worker processes can share what they wait by, before anything else is begun.

    Raises:
        ValueError: ``/dev/shm``, where Linux keeps semaphores, has no room, is not there or cannot be written to.
    """
    needed = _SEMAPHORES_OF_A_POOL + _SEMAPHORES_OF_A_WORKER * workers if workers else 0
    try:
        [get_context().Lock() for _ in range(needed)]  # all at once, and given back at once
    except OSError as error:
        raise ValueError(
            f"{workers} worker processes need {needed} semaphores in /dev/shm: {error.strerror}; give the container "
            "shared memory (docker --shm-size=1g, a larger emptyDir), or let one process do all (num_workers: 0; "
            "--num-workers 0; --processes 1)"
        ) from error


def usable_cores() -> int:
    """How many cores this process may use: those that a scheduler gave it, as far as its container's quota allows."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()
        cores = min(cores, max(int(quota) // int(period), 1))  # ValueError for "max": no quota
    return cores
