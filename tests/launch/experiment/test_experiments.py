"""The paper's comparisons as commands: what they train, when they do not train again, and what their page says."""

import json
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from smalti.launch.__main__ import main
from smalti.launch.experiment.__main__ import EXPERIMENTS
from smalti.launch.experiment.lab import Lab, StepError, TrainedRun
from smalti.launch.experiment.objectives import verdict as verdict_of_objectives
from smalti.launch.experiment.section import Strip, sheet, spread
from smalti.launch.experiment.sizes import SIZES
from smalti.launch.experiment.table1 import at_time, verdict


def smoke(name: str, out: Path) -> int:
    return main(["experiment", name, "--size", "smoke", "--out", str(out)])


def table(section: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]


ROWS = {
    "table1": [[condition, model] for condition in ("unconditional", "map") for model in ("transformer", "PixelSNAIL")],
    "factors": [["2"], ["4"]],
    "vqvae-vqgan": [["VQ-VAE"], ["VQGAN"]],
    "completion": [["latent"], ["pixel"]],
    "orders": [["raster"], ["alternate"], ["z_curve"], ["spiral_out"], ["spiral_in"], ["subsample"]],
}  # fmt: skip
PUBLISHED = {"table1": "4.49 / 4.57 / 4.64", "factors": "figure 7", "vqvae-vqgan": "32.01", "orders": "5.015"}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_to_its_end_and_is_not_run_again(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert smoke(name, tmp_path) == 0
    section = (tmp_path / "section.md").read_text()
    header, *rows = table(section)
    assert [row[: len(wanted)] for row, wanted in zip(rows, ROWS[name], strict=True)] == ROWS[name]
    assert all(len(row) == len(header) and all(row) for row in rows)
    assert PUBLISHED.get(name, "") in section and f"`smalti experiment {name} --size smoke`" in section
    for shown in re.findall(r"\(images/(.*?)\)", section):
        Image.open(tmp_path / shown).load()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    capfd.readouterr()
    assert smoke(name, tmp_path) == 0
    assert "==" not in capfd.readouterr().out  # no step was done again
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert table((tmp_path / "section.md").read_text()) == [header, *rows]


class Pretending(Lab):
    """Notes the commands, and fails where it is to."""

    def __init__(self, out: Path, fails: str = "") -> None:
        self.ran: list[list[str]] = []
        self.fails = fails
        super().__init__(out, SIZES["smoke"], out / "data", None, lambda line: None)

    def _run(self, command: str, words) -> int:
        self.ran.append([command, *words])
        time.sleep(0.01)
        return 75 if command == self.fails else 0


def test_a_step_is_done_once_and_again_where_it_failed_or_was_asked_otherwise(tmp_path: Path):
    lab = Pretending(tmp_path)
    for _ in range(2):
        lab.do("one", "encode", "a", 1)
    assert lab.ran == [["encode", "a", "1"]]
    with pytest.raises(StepError, match=r"the step two ended with 75") as failed:
        Pretending(tmp_path, fails="train").do("two", "train", "x")
    assert failed.value.code == 75
    again = Pretending(tmp_path)
    again.do("one", "encode", "a", 1)
    again.do("two", "train", "x")
    again.do("one", "encode", "a", 2)
    assert again.ran == [["train", "x"], ["encode", "a", "2"]]
    record = json.loads((tmp_path / "steps.json").read_text())
    assert record["two"]["seconds"] >= 0.02  # of both attempts
    assert again.seconds == pytest.approx(sum(step["seconds"] for step in record.values()))


def test_the_likelihood_at_equal_time_is_that_of_the_last_evaluation_within_it():
    lines = [
        {"step": 0, "val/nll": 4.0},
        {"step": 10, "train/seconds_per_step": 1.0},
        {"step": 10, "val/nll": 3.0},
        {"step": 20, "train/seconds_per_step": 2.0},
        {"step": 20, "val/nll": 2.0},
    ]
    run = TrainedRun(Path(), 1, 1.0, 1.0, lines)
    assert [run.seconds_at(step) for step in (0, 10, 20)] == [0.0, 10.0, 30.0]
    assert [at_time(run, seconds) for seconds in (5.0, 10.0, 29.9, 30.0, 99.0)] == [4.0, 3.0, 3.0, 2.0, 2.0]


def test_seeds_are_given_as_their_mean_and_how_far_they_lie_apart():
    assert spread([1.23456]) == "1.235" and spread([1.0, 2.0, 4.5]) == "2.500 (1.000 to 4.500)"


def test_who_is_ahead_is_said_plainly_and_so_is_that_seeds_do_not_tell_it():
    apart = {"transformer": [2.0, 2.2], "PixelSNAIL": [2.3, 2.5]}
    assert verdict("map", apart, "steps") == (
        "map: at equal steps the transformer is ahead, 2.100 against 2.400 nats a code."
    )
    mixed = {"transformer": [2.0, 2.6], "PixelSNAIL": [2.1, 2.3]}
    said = verdict("map", mixed, "time")
    assert "is NOT ahead, 2.300 against 2.200" in said and "the seeds of one reach into those of the other" in said
    better = {"psnr": 20.0, "ssim": 0.5, "lpips": 0.1, "rfid": 3.0}
    worse = {"psnr": 21.0, "ssim": 0.6, "lpips": 0.3, "rfid": 2.0}
    assert verdict_of_objectives({"VQGAN": better, "VQ-VAE": worse}).endswith("is ahead in LPIPS.")
    assert verdict_of_objectives({"VQGAN": worse, "VQ-VAE": better}).endswith("in PSNR, SSIM, the Frechet distance.")
    assert verdict_of_objectives({"VQGAN": better, "VQ-VAE": better}).endswith("is ahead in none of the figures.")


def test_images_of_a_sheet_are_as_large_as_the_largest_and_colors_stay(tmp_path: Path):
    files = []
    for number, (side, color) in enumerate(((8, (250, 0, 0)), (4, (0, 250, 0)), (200, (0, 0, 250)))):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (side, side), color).save(files[-1])
    sheet([Strip("small", files[:2]), Strip("one", files[1:2])], tmp_path / "small.png")
    sheet([Strip("all", files)], tmp_path / "large.png")
    with Image.open(tmp_path / "small.png") as small, Image.open(tmp_path / "large.png") as large:
        assert small.size == (16, 16) and large.size == (3 * 128, 128)
        assert [small.getpixel(place) for place in ((7, 7), (8, 0), (0, 8), (8, 8))] == [
            (250, 0, 0), (0, 250, 0), (0, 250, 0), (255, 255, 255),
        ]  # fmt: skip
        assert large.getpixel((383, 127)) == (0, 0, 250)


def test_the_sizes_fit_the_networks():
    for size in SIZES.values():
        assert size.side % (1 << (len(size.multipliers) - 1)) == 0 and size.grid >= 4
        assert size.width % size.heads == 0 and size.snail[0] % size.snail[3] == 0
        assert size.prior_batch % size.micro in (0, size.prior_batch) and size.val <= size.images


def test_what_cannot_be_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    assert main(["experiment", "orders", "--size", "paper", "--out", str(tmp_path)]) == 2
    assert "has no data of its own; name packed images" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["experiment", "orders", "--size", "smoke", "--out", str(tmp_path)]) == 2
    assert "name what starts them with --launcher" in capsys.readouterr().err
