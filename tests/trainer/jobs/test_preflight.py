"""A job whose ranks do not fit together is refused before anything is touched, with host and rank."""

import shutil
from pathlib import Path

import processes
import pytest

import smalti
from smalti.trainer.distributed import ranks
from smalti.trainer.jobs import preflight
from smalti.trainer.jobs.preflight import Facts, differences

FIRST = Facts(0, "n0", "H100", {"python": "3.11.7", "torch": "2.13"}, "abc", 1000.0, True)


def other(**changes: object) -> Facts:
    return FIRST._replace(**{"rank": 9, "host": "n1", **changes})


def test_equal_ranks_have_no_differences():
    assert differences([FIRST, other(clock=1029.0)]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"python": "3.11.7", "torch": "2.12"}}, "rank 9 on n1 has torch 2.12, rank 0 2.13"),
        ({"device": "CPU"}, "rank 9 on n1 has a CPU, rank 0 a H100"),
        ({"config": "abd"}, "rank 9 on n1 read another config"),
        ({"clock": 900.0}, "the clock of rank 9 on n1 is -100 s off"),
        ({"sees_folder": False}, "rank 9 on n1 does not see rank 0's run folder"),
    ],
)
def test_each_difference_names_rank_and_host(changes: dict[str, object], message: str):
    (problem,) = differences([FIRST, other(), other(**changes)])
    assert problem.startswith(message)


def test_a_disk_that_cannot_hold_two_checkpoints_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"this job cannot run:\n  .* GB free, and a checkpoint needs 1000000.00 GB"):
        preflight.check(tmp_path, "config", 10**15)


@pytest.mark.parametrize("changed", ["models/bounds.py", "trainer/keyed_random.py", "launch/train.py"])
def test_another_byte_in_any_part_of_the_package_is_another_version(tmp_path: Path, changed: str):
    package = Path(smalti.__file__).parent
    for part in ("models", "trainer", "launch"):
        shutil.copytree(package / part, tmp_path / "same" / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    with (tmp_path / "other" / changed).open("a") as file:
        file.write("\n")
    digest = preflight.versions()["smalti"]
    assert preflight.source_digest(tmp_path / "same") == digest != preflight.source_digest(tmp_path / "other")


def test_a_part_of_the_package_that_is_not_found_is_an_error_and_no_version(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not a part of the package"):
        preflight.source_digest(tmp_path)


def check_on_two_ranks(folder: str) -> list[str]:
    said = preflight.check(Path(folder), "the same", 1000)
    try:
        preflight.check(Path(folder), f"config of rank {ranks.rank()}", 1000)
        refused = ""
    except ValueError as error:
        refused = str(error)
    return [said, refused]


def test_two_ranks_compare_themselves_and_leave_nothing_behind(tmp_path: Path):
    for said, refused in processes.run(check_on_two_ranks, 2, tmp_path):
        assert said.startswith("2 rank(s) on 1 host(s), ") and "GB/s reduced" in said
        assert "rank 1 on" in refused and "another config" in refused
    assert list(tmp_path.iterdir()) == []


def test_a_rank_alone_names_no_speed_between_ranks(tmp_path: Path):
    said = preflight.check(tmp_path, "the same", 1000)
    assert said.startswith("1 rank(s) on 1 host(s), ") and "GB/s" not in said
