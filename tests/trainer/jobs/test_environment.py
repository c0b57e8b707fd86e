"""What a run ran on, a line for every start."""

import socket
from pathlib import Path

import processes
import pytest

from smalti.trainer.checkpoint.save_error import SaveError
from smalti.trainer.jobs import environment


def record(folder: str) -> None:
    environment.record(Path(folder))


def test_every_start_of_two_ranks_adds_one_line(tmp_path: Path):
    for _ in range(2):
        processes.run(record, 2, str(tmp_path))
    first, second = environment.environments(tmp_path)
    assert (first.ranks, first.hosts, first.device) == (2, [socket.gethostname()] * 2, "CPU")
    assert first.began <= second.began and "torch" in first.versions


def test_what_slurm_says_of_the_job_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    environment.record(tmp_path)
    assert environment.environments(tmp_path)[0].job == {"SLURM_JOB_ID": "17"}


def test_damaged_lines_are_left_out_and_no_file_is_no_start(tmp_path: Path):
    assert environment.environments(tmp_path) == []
    environment.record(tmp_path)
    with (tmp_path / environment.FILE).open("a") as file:
        file.write('[1]\n{"began": "x"}\ncut of')
    assert len(environment.environments(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_a_failed_save(tmp_path: Path):
    (tmp_path / environment.FILE).mkdir()
    with pytest.raises(SaveError, match=environment.FILE):
        environment.record(tmp_path)
