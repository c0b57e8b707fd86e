"""A child is gone as soon as the process that started it is, whatever it waits for."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smalti.trainer.distributed.child_processes import check_semaphores, end_with
from smalti.trainer.prepare.process_pool import spread


def _child_of_a_killed_parent(late: bool) -> int:
    """The process number of a child whose parent was killed before (``late``) or after it asked to end with it."""
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        me = os.getpid()
        child = os.fork()
        if child:
            signal.pause()
        if late:
            os.write(writing, b"%d\n" % os.getpid())
            while os.getppid() == me:
                time.sleep(0.01)
        end_with(me)
        os.write(writing, b"%d\n" % os.getpid())
        os.write(writing, bytes(1 << 20))  # never read: a full pipe
        os._exit(0)
    try:
        return int(os.read(reading, 32).partition(b"\n")[0])
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)


@pytest.mark.parametrize("late", [False, True])
def test_a_child_ends_with_its_parent_even_while_it_writes_to_a_full_pipe(late):
    child = _child_of_a_killed_parent(late)
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # nobody may be there to bury it
    except FileNotFoundError:
        return False


@contextmanager
def no_semaphores() -> Iterator[None]:
    """Semaphores are files of 32 bytes, for which there is no room; nor is there for what pytest prints."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_workers_that_cannot_have_semaphores_are_refused_before_they_start():
    with no_semaphores():
        check_semaphores(0)
        with pytest.raises(ValueError, match=r"^2 worker processes need 14 semaphores in /dev/shm: .*--shm-size"):
            check_semaphores(2)
        with pytest.raises(ValueError, match=r"^3 worker processes need .* --processes 1"):
            list(spread(abs, [1, -2, 3], 3))
        assert [result for _, result in spread(abs, [1, -2, 3], 1)] == [1, 2, 3]


def test_where_there_is_room_nothing_is_said():
    check_semaphores(16)
