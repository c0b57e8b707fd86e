"""What a job leaves in its run's folder about its end, and how it is asked for it."""

from pathlib import Path

import pytest

from smalti.trainer import endings
from smalti.trainer.failures import FailedError
from smalti.trainer.saving import SaveError


@pytest.mark.parametrize("code", [endings.DONE, endings.LEFT])
def test_what_a_job_ended_with_is_found_again(tmp_path: Path, code: int):
    with endings.told(tmp_path) as ending:
        ending.code = code
    assert endings.last(tmp_path) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a wrong value"), endings.WRONG),
        (FileNotFoundError("no such shard"), endings.WRONG),
        (SaveError("the disk is full"), endings.NOT_SAVED),
        (FailedError(), endings.FAILED),
        (RuntimeError("out of memory"), endings.FAILED),
    ],
)
def test_an_error_passes_and_leaves_its_code(tmp_path: Path, error: Exception, code: int):
    with pytest.raises(type(error)), endings.told(tmp_path):
        raise error
    assert endings.last(tmp_path) == code


def test_nothing_is_known_of_a_job_that_was_killed(tmp_path: Path):
    with endings.told(tmp_path) as ending:
        ending.code = endings.DONE
    endings.forget(tmp_path)  # the next job begins, and never comes to tell
    assert endings.last(tmp_path) is None


def test_a_wish_may_come_before_the_folder_is_there_and_be_withdrawn(tmp_path: Path):
    run = tmp_path / "run"
    endings.ask(run)
    assert (run / endings.ASKED).exists()
    endings.withdraw(run)
    endings.withdraw(run)
    assert not list(run.iterdir())
