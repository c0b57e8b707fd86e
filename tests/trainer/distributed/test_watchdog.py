"""A rank that stalls shows its stacks and ends; one whose launcher is gone, or that is asked to stop, stops itself."""

import os
import signal
import time
from pathlib import Path

import processes

from smalti.trainer.distributed import ranks, watchdog
from smalti.trainer.exit_code import ExitCode
from smalti.trainer.jobs import exit_codes
from smalti.trainer.jobs.side_files import STOP_REQUEST


def hang() -> None:
    """Rank 1 hangs outside of any collective while rank 0 waits for it."""
    with watchdog.Watchdog(2.0, launched=False):
        if ranks.rank() == 1:
            the_line_that_hangs()
        ranks.barrier()


def the_line_that_hangs() -> None:
    time.sleep(600)


def test_a_stalled_rank_shows_where_every_rank_stands_and_ends():
    began = time.monotonic()
    ended = processes.start(hang, 2, patience_s=60).wait()
    assert time.monotonic() - began < 30
    assert ended.codes[1] == ExitCode.STALLED and ended.codes[0] != 0
    assert "rank 1 on" in ended.outputs[1] and "in the_line_that_hangs" in ended.outputs[1]
    assert "barrier" in ended.outputs[0]


def work_on() -> str:
    """Signs of life keep the watchdog quiet well beyond its patience."""
    with watchdog.Watchdog(1.0, launched=False):
        for _ in range(15):
            time.sleep(0.1)
            watchdog.heartbeat()
    return "done"


def test_signs_of_life_keep_it_quiet():
    assert processes.run(work_on, 1) == ["done"]


def until_asked() -> None:
    """Train until asked to leave, then save: here, say so."""
    with ranks.Interrupt() as interrupt, watchdog.Watchdog(60.0, launched=True):
        print("training", flush=True)
        while not interrupt.stop_requested():
            time.sleep(0.05)
        print("saved", flush=True)
        os._exit(75)


def test_ranks_leave_after_their_launcher_was_killed():
    job = processes.start(until_asked, 2, patience_s=60)
    while not all("training" in job.output(rank) for rank in range(2)):
        time.sleep(0.05)
    os.kill(job.leader, signal.SIGKILL)
    ended = job.wait()
    for output in ended.outputs:
        assert "the launcher is gone" in output or "saved" in output
    assert all("saved" in output for output in ended.outputs), ended.log


def test_a_request_counts_when_it_is_touched_and_not_when_an_earlier_job_has_left_it(tmp_path: Path):
    exit_codes.request_stop(tmp_path)
    os.utime(tmp_path / STOP_REQUEST, ns=(0, 0))
    with ranks.Interrupt() as interrupt, watchdog.Watchdog(60.0, False, tmp_path / STOP_REQUEST):
        time.sleep(2.5 * watchdog.PERIOD_S)
        assert interrupt.raised is None
        exit_codes.request_stop(tmp_path)
        deadline = time.monotonic() + 30.0
        while interrupt.raised is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert interrupt.raised == signal.SIGTERM
