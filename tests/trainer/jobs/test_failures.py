"""The first cause of a failure is the last thing that every rank says."""

import os
import signal
import socket
from pathlib import Path

import processes
import pytest
import torch

from smalti.trainer.distributed import ranks
from smalti.trainer.jobs import failures
from smalti.trainer.shards.errors import TooManySampleErrorsError


def fail(folder: str) -> None:
    """Rank 1 fails on its own while rank 0 is in a collective with it."""
    with failures.first_failure_reported(Path(folder)):
        ranks.all_reduce_sum_(torch.zeros(1))
        if ranks.rank() == 1:
            raise ArithmeticError("the seventh sample cannot be divided")
        ranks.all_reduce_sum_(torch.zeros(1))


def test_every_rank_says_the_first_cause(tmp_path: Path):
    ended = processes.start(fail, 2, tmp_path).wait()
    assert 0 not in ended.codes
    cause = "ArithmeticError: the seventh sample cannot be divided"
    assert f"rank 1 on {socket.gethostname()}: {cause}" in (tmp_path / "failure.txt").read_text()
    assert "lost contact with another rank. The first cause: rank 1 on " in ended.outputs[0]
    assert cause in ended.outputs[0]
    assert "in fail" in ended.outputs[1]  # where it happened


def test_too_many_bad_samples_are_a_line_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(failures.FailedError), failures.first_failure_reported(tmp_path):
        raise TooManySampleErrorsError("3 of 4 samples could not be used")
    said = f"rank 0 on {socket.gethostname()} failed: TooManySampleErrorsError: 3 of 4 samples could not be used\n"
    assert capsys.readouterr().err == said
    assert "Traceback" in (tmp_path / "failure.txt").read_text()


def vanish(folder: str) -> None:
    """Rank 1 is killed without a word."""
    with failures.first_failure_reported(Path(folder)):
        if ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.all_reduce_sum_(torch.zeros(1))


def test_a_rank_that_was_killed_is_said_to_be_gone(tmp_path: Path):
    ended = processes.start(vanish, 2, tmp_path).wait()
    assert ended.codes[1] == -9 and ended.codes[0] == 1
    assert "None of them said why" in ended.outputs[0]


def test_a_cause_that_is_just_being_written_is_waited_for(tmp_path: Path):
    file = tmp_path / "failure.txt"
    file.touch()
    assert failures.reported_failures(tmp_path) == ""
    file.write_text("rank 1 on a: ValueError: no")
    assert failures.reported_failures(tmp_path) == ""
    file.write_text("rank 1 on a: ValueError: no\n\nTraceback")
    assert failures.reported_failures(tmp_path) == "rank 1 on a: ValueError: no"


def test_the_cause_may_name_a_file_that_is_not_utf_8(tmp_path: Path):
    with pytest.raises(failures.FailedError), failures.first_failure_reported(tmp_path):
        raise ArithmeticError(os.fsdecode(b"caf\xe9.png cannot be divided"))
    assert r"caf\udce9.png cannot be divided" in failures.reported_failures(tmp_path)


def test_a_file_of_the_users_is_neither_removed_nor_taken_for_a_cause(tmp_path: Path):
    (tmp_path / "failure.txt").write_text("why I failed\nin school\n")
    failures.forget(tmp_path)
    with pytest.raises(failures.FailedError), failures.first_failure_reported(tmp_path):
        raise ArithmeticError
    assert failures.reported_failures(tmp_path) == ""
    assert (tmp_path / "failure.txt").read_text() == "why I failed\nin school\n"
