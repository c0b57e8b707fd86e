"""Metrics are means over steps and ranks, written once, and rewound with the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from PIL import Image

from smalti.trainer.checkpoint.writer import SaveReport
from smalti.trainer.distributed import ranks
from smalti.trainer.training.metrics import Metrics, grid, history
from smalti.trainer.training.throughput import Workload


def metrics(run: Path) -> Metrics:
    return Metrics(run, 100, None, {})


def test_a_line_is_the_mean_of_the_steps_since_the_last(tmp_path: Path):
    writer = metrics(tmp_path)
    for step, loss in enumerate([1.0, 2.0, 6.0], 1):
        writer.add({"loss": torch.tensor(loss)} | ({"rare": torch.tensor(5.0)} if step == 2 else {}))
    writer.write(3, {})
    writer.add({"loss": torch.tensor(4.0)})
    writer.write(4, {})
    first, second = history(tmp_path)
    assert (first["step"], first["train/loss"], first["train/rare"]) == (3, 3.0, 5.0)
    assert (second["step"], second["train/loss"]) == (4, 4.0) and "train/rare" not in second
    assert first["train/seconds_per_step"] > 0


def test_a_line_has_what_holds_at_its_step_and_how_fast_the_steps_before_it_were(tmp_path: Path):
    writer = Metrics(tmp_path, 100, None, {}, Workload("images", 32))
    batches = writer.timed(iter(["first", "second"]))
    assert [next(batches), next(batches)] == ["first", "second"]
    writer.write(2, {"lr/generator": 0.5})
    (line,) = history(tmp_path)
    assert line["train/lr/generator"] == 0.5 and 0 <= line["train/data_wait"] <= 1
    assert line["train/images_per_second"] == pytest.approx(32 / line["train/seconds_per_step"])


def test_the_console_says_what_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    writer = metrics(tmp_path)
    writer.add({"loss": torch.tensor(0.25)})
    writer.write(50, {})
    writer.write_val(50, {"psnr": 21.5})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step  50/100  train/loss 0.25") and " left 0:0" in lines[0]
    assert lines[1] == "step  50/100  val/psnr 21.5"


def test_history_rewinds_to_the_step_that_is_resumed(tmp_path: Path):
    writer = metrics(tmp_path)
    for step in (10, 20, 30):
        writer.write_val(step, {"psnr": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "held_o')  # a kill
    metrics(tmp_path).rewind(20)
    assert [line["step"] for line in history(tmp_path)] == [10, 20]
    writer.write_val(30, {"psnr": 1.0})
    assert [line["step"] for line in history(tmp_path)] == [10, 20, 30]


def test_a_run_that_begins_again_keeps_nothing(tmp_path: Path):
    metrics(tmp_path).write_val(0, {"psnr": 1.0})
    metrics(tmp_path).rewind(0)
    assert history(tmp_path) == []


def test_a_line_that_a_kill_cut_short_is_left_out_of_the_history(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2')
    assert history(tmp_path) == [{"step": 1}]


def test_what_was_added_before_a_restart_counts_in_the_next_line(tmp_path: Path):
    first = metrics(tmp_path)
    first.add({"loss": torch.tensor(1.0)})
    resumed = metrics(tmp_path)
    resumed.load_state_dict(first.state_dict())
    resumed.add({"loss": torch.tensor(3.0)})
    resumed.write(2, {})
    assert history(tmp_path)[-1]["train/loss"] == 2.0


def test_what_a_save_has_cost_is_in_the_next_line_and_only_there(tmp_path: Path):
    writer = metrics(tmp_path)
    writer.note(SaveReport(step=5, stalled_s=0.5, written_s=2.0, size=1000))
    writer.note(None)
    for step in (10, 20):
        writer.write(step, {})
    first, second = history(tmp_path)
    assert (first["checkpoint/stalled_seconds"], first["checkpoint/bytes_per_second"]) == (0.5, 500.0)
    assert "checkpoint/stalled_seconds" not in second


def test_images_are_written_as_they_are(tmp_path: Path):
    pixels = torch.arange(4 * 6 * 3, dtype=torch.uint8).reshape(4, 6, 3)
    metrics(tmp_path).write_images(7, {"rebuilt": pixels})
    with Image.open(tmp_path / "images" / "rebuilt-00000007.png") as image:
        assert np.array_equal(np.asarray(image), pixels.numpy())


def test_a_grid_has_a_row_for_each_batch():
    black, white = torch.full((2, 3, 4, 5), -1.0), torch.full((2, 3, 4, 5), 3.0)  # beyond white is white
    image = grid([black, white])
    assert image.shape == (8, 10, 3) and image.dtype == torch.uint8
    assert (image[:4] == 0).all() and (image[4:] == 255).all()


def write_on_two_ranks(run: str) -> dict[str, Any]:
    writer = metrics(Path(run))
    writer.add({"loss": torch.tensor(1.0 + ranks.rank())})
    writer.write(1, {})
    ranks.barrier()
    return {"lines": len(history(Path(run))), "loss": history(Path(run))[0]["train/loss"]}


def test_ranks_write_one_line_of_their_mean(tmp_path: Path):
    assert processes.run(write_on_two_ranks, 2, tmp_path) == [{"lines": 1, "loss": 1.5}] * 2
