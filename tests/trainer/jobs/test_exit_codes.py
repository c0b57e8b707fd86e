"""What a job leaves in its run's folder about its end, and how it is asked for it."""

from pathlib import Path

import pytest

from smalti.trainer.checkpoint.save_error import SaveError
from smalti.trainer.exit_code import ExitCode
from smalti.trainer.jobs import exit_codes
from smalti.trainer.jobs.failures import FailedError
from smalti.trainer.jobs.side_files import STOP_REQUEST


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.LEFT])
def test_what_a_job_ended_with_is_found_again(tmp_path: Path, code: int):
    with exit_codes.recorded_exit_code(tmp_path) as ending:
        ending.code = code
    assert exit_codes.last(tmp_path) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a wrong value"), ExitCode.WRONG),
        (FileNotFoundError("no such shard"), ExitCode.WRONG),
        (SaveError("the disk is full"), ExitCode.NOT_SAVED),
        (FailedError(), ExitCode.FAILED),
        (RuntimeError("out of memory"), ExitCode.FAILED),
    ],
)
def test_an_error_passes_and_leaves_its_code(tmp_path: Path, error: Exception, code: int):
    with pytest.raises(type(error)), exit_codes.recorded_exit_code(tmp_path):
        raise error
    assert exit_codes.last(tmp_path) == code


def test_nothing_is_known_of_a_job_that_was_killed(tmp_path: Path):
    with exit_codes.recorded_exit_code(tmp_path) as ending:
        ending.code = ExitCode.DONE
    exit_codes.forget(tmp_path)  # the next job begins, and never comes to tell
    assert exit_codes.last(tmp_path) is None


def test_a_request_may_come_before_the_folder_is_there_and_be_withdrawn(tmp_path: Path):
    run = tmp_path / "run"
    exit_codes.request_stop(run)
    assert (run / STOP_REQUEST).exists()
    exit_codes.withdraw_stop_request(run)
    exit_codes.withdraw_stop_request(run)
    assert not list(run.iterdir())
