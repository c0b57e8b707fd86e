"""A child is gone as soon as the process that started it is, whatever it waits for."""

import os
import signal
import time
from pathlib import Path

import pytest

from smalti.trainer.distributed.child_processes import end_with


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
