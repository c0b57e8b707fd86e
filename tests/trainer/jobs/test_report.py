"""What a page and a summary say of runs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from smalti.launch import report
from smalti.trainer import config as configs
from smalti.trainer.jobs import report as reporting
from smalti.trainer.jobs.run import Run

LINES = {
    "demo_vqgan": [
        {"step": 0, "seconds": 0.1, "val/psnr": 7.25, "val/codebook/usage": 0.05},
        {"step": 20, "seconds": 3.0, "train/rec_loss": 0.5},
        {"step": 40, "seconds": 6.0, "val/psnr": 21.5, "val/codebook/usage": 0.5},
    ],
    "demo_prior": [
        {"step": 0, "seconds": 0.1, "val/nll": 5.5, "val/normalized_nll": 1.0},
        {"step": 20, "seconds": 3.0, "val/nll": 1.375, "val/normalized_nll": 0.25},
    ],
}


def write_run(folder: Path, config: str) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(configs.dump(configs.read(Run, config)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES[config]))
    return folder


def test_the_summary_has_before_and_after_of_both_stages_and_where_the_time_went(tmp_path: Path) -> None:
    parts = [reporting.reported_run(write_run(tmp_path / config, config)) for config in LINES]

    said = "\n".join(reporting.summary(parts, {"VQGAN": 90.0, "prior": 30.0}, [Path("a.png")]))

    assert "7.25 dB before, 21.50 dB after; 50% of the codes in use" in said
    assert "random trunk" in said
    assert "5.500 nats per code before, 1.375 after; ln K is 5.500, so it is 75% below" in said
    assert "in all: 2.0 minutes" in said and "image: a.png" in said


def test_a_step_that_was_gone_on_with_has_all_its_seconds(tmp_path: Path) -> None:
    (tmp_path / "seconds.txt").write_text("pack 2\nVQGAN 40\nVQGAN 60\n")

    assert reporting.seconds(tmp_path / "seconds.txt") == {"pack": 2.0, "VQGAN": 100.0}


def test_the_page_holds_its_images_and_asks_nothing_of_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "demo_vqgan", "demo_vqgan")
    Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / "a.png")

    code = report.main([str(run), "--images", str(tmp_path / "a.png"), "--out", str(tmp_path / "report.html")])

    page = (tmp_path / "report.html").read_text()
    assert code == 0 and "report.html" in capsys.readouterr().out
    assert "data:image/png;base64," in page and "http" not in page and "<script" not in page
    assert page.count("<polyline") == 3  # psnr, usage, pixel


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path), "--out", str(tmp_path / "report.html")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
