"""How a run stands, from its folder alone."""

import json
import os
from pathlib import Path

import processes
import pytest
import torch
from fixtures.reported import write_run

from smalti.launch import top
from smalti.trainer.jobs.environment import FILE as ENVIRONMENT
from smalti.trainer.reporting.live import status
from smalti.trainer.training.metrics import RANKS, Metrics

NOW = 1_000_000.0
PACE = {"step": 40, "seconds": 6.0, "train/rec_loss": 0.25, "train/seconds_per_step": 2.0, "train/alert_collapsed": 1.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in mid-training, 160 steps long, whose last line is five seconds old."""
    folder = write_run(tmp_path / "run", "demo_vqgan")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(PACE) + "\n")
    os.utime(folder / "metrics.jsonl", (NOW - 5, NOW - 5))
    start = {"began": "2026-01-01", "hosts": ["n1", "n2"], "ranks": 2, "device": "H100", "versions": {}, "job": {}}
    (folder / ENVIRONMENT).write_text(json.dumps(start) + "\n")
    (folder / RANKS).write_text(json.dumps({"step": 40, "data_wait": [0.02, 0.5], "gpu_memory": [41.0, 40.0]}))
    return folder


def test_a_run_in_training_shows_progress_time_left_alerts_and_who_waits(run: Path):
    lines = status(run, NOW)
    assert lines[0].startswith(f"{run}  [########") and "25.0% step 40/160  left 4:00  last line 0:05 ago" in lines[0]
    assert lines[1] == "  2 rank(s) on 2 host(s), H100; start 1, 2026-01-01"
    assert "  train  seconds_per_step 2" in lines and "  train  rec_loss 0.25" in lines
    assert "  val at step 40  psnr 21.5  codebook/usage 0.5" in lines
    assert "  ALERT collapsed since step 40" in lines
    waits = "waits longest for data: rank 1 on n2, 50% (median 26%); fullest GPU: rank 0 on n1, 41.0 GiB"
    assert lines[-1].startswith(f"  {waits}")


def test_a_run_that_writes_nothing_for_long_is_called_silent(run: Path):
    assert "SILENT" not in status(run, NOW + 100)[0]
    assert "SILENT, last line 16:45 ago" in status(run, NOW + 1000)[0]


def test_a_run_that_has_ended_says_how_and_why(run: Path):
    (run / "exit-code").write_text("1\n")
    (run / "failure.txt").write_text("rank 1 on n2: a reason\nand more")
    assert status(run, NOW)[0].endswith("ended with 1 (FAILED): rank 1 on n2: a reason")


@pytest.mark.parametrize("content", ["", "[]", '{"data_wait": ["x"]}', '{"data_wait": [], "gpu_memory": []}'])
def test_a_damaged_file_about_ranks_is_passed_over(run: Path, content: str):
    (run / RANKS).write_text(content)
    assert not any("waits longest" in line for line in status(run, NOW))


def test_a_run_that_only_began_has_one_line(tmp_path: Path):
    folder = write_run(tmp_path / "run", "demo_vqgan")
    (folder / "metrics.jsonl").unlink()
    assert status(folder, NOW) == [f"{folder}  [{'.' * 30}] 0.0% step 0/160  has written nothing yet"]


def test_the_command_prints_once_where_there_is_no_terminal(run: Path, capsys: pytest.CaptureFixture[str]):
    assert top.main([str(run)]) == 0
    assert capsys.readouterr().out.count("step 40/160") == 1
    assert top.main([str(run.parent)]) == 2
    assert "is not a run's folder" in capsys.readouterr().err


def write_a_line(folder: str) -> None:
    metrics = Metrics(Path(folder), 2, None, {})
    metrics.add({"loss": torch.ones(())})
    metrics.write(1, {})


def test_every_line_of_metrics_leaves_what_each_rank_waited(tmp_path: Path):
    processes.run(write_a_line, 2, str(tmp_path))
    seen = json.loads((tmp_path / RANKS).read_text())
    assert seen["step"] == 1 and len(seen["data_wait"]) == len(seen["gpu_memory"]) == 2
