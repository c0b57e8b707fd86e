"""What a summary says of runs."""

import os
from pathlib import Path

import pytest
from fixtures.reported import LINES, write_run

from smalti.launch import report
from smalti.trainer.reporting import runs as reporting


def test_the_summary_has_before_and_after_of_both_stages_and_where_the_time_went(tmp_path: Path) -> None:
    parts = [reporting.reported_run(write_run(tmp_path / config, config)) for config in LINES]

    said = "\n".join(reporting.summary(parts, {"VQGAN": 90.0, "prior": 30.0}, [Path("a.png")]))

    assert "7.25 dB before, 21.50 dB after; 50% of the codes in use" in said
    assert "random trunk" in said
    assert "5.500 nats per code before, 1.375 after; ln K is 5.500, so it is 75% below" in said
    assert "in all: 2.0 minutes" in said and "image: a.png" in said


def test_a_file_of_seconds_that_is_none_is_named(tmp_path: Path) -> None:
    for text in ("pack two", "7", "pack nan", "\x00", "pack -3"):
        (tmp_path / "seconds.txt").write_text(text + "\n")
        with pytest.raises(ValueError, match=r"seconds\.txt has the line .* and its lines are NAME SECONDS"):
            reporting.seconds(tmp_path / "seconds.txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a regular file but a named pipe"):
        reporting.seconds(tmp_path / "pipe")


def test_a_step_that_was_gone_on_with_has_all_its_seconds(tmp_path: Path) -> None:
    (tmp_path / "seconds.txt").write_text("pack 2\nVQGAN 40\nVQGAN 60\n")

    assert reporting.seconds(tmp_path / "seconds.txt") == {"pack": 2.0, "VQGAN": 100.0}


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path), "--out", str(tmp_path / "report.html")]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_alerts_have_the_steps_between_which_they_held():
    lines: list[dict[str, float]] = [
        {"step": 10, "train/rec_loss": 1.0, "train/alert_codebook_collapsed": 1.0},
        {"step": 20, "train/rec_loss": 1.0, "train/alert_codebook_collapsed": 1.0, "train/alert_weight_at_clamp": 0.5},
        {"step": 20, "val/psnr": 20.0},
        {"step": 30, "train/rec_loss": 1.0, "train/alert_weight_at_clamp": 1.0},
        {"step": 40, "train/rec_loss": 1.0, "train/alert_codebook_collapsed": 1.0},
    ]

    assert reporting.alerts(lines) == [
        ("codebook_collapsed", 10, 20), ("weight_at_clamp", 20, 30), ("codebook_collapsed", 40, 40),
    ]  # fmt: skip
