"""On a terminal a run is a bar with pace, loss and time left; elsewhere a plain line for each log step."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import torch

from smalti.trainer.training.metrics import Metrics
from smalti.trainer.training.throughput import Workload


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """A pseudo-terminal of 100 columns: where it is read, and the stream that writes to it."""
    reads, writes = pty.openpty()
    fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    os.set_blocking(reads, False)
    stream = os.fdopen(writes, "w")
    yield reads, stream
    stream.close()
    os.close(reads)


def train(run: Path) -> None:
    """A line about training, one about validation, and another about training."""
    metrics = Metrics(run, 100, None, {}, Workload("images", 8))
    metrics.rewind(0)
    for step in (10, 20):
        for _ in range(10):
            metrics.add({"rec_loss": torch.tensor(0.5), "usage": torch.tensor(1.0)})
        metrics.write(step, {})
        if step == 10:
            metrics.write_val(step, {"psnr": 21.0})
    metrics.close()


def test_on_a_terminal_training_is_a_bar_and_other_lines_stand_above_it(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    reads, stream = terminal
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    train(tmp_path)
    stream.flush()
    said = os.read(reads, 1 << 20).decode()
    shown = [part.strip() for part in re.split(r"[\r\n]+", said) if part.strip()]
    bar = r"20% \|.+\| step 20/100, left \d\d:\d\d, [\d.e+]+ images/s, rec_loss 0.5"
    assert re.fullmatch(bar, shown[-1]), shown[-1]
    assert "step  10/100  val/psnr 21" in shown
    assert all(len(part) <= 100 for part in shown) and not any("train/usage" in part for part in shown)


def test_a_log_file_gets_a_plain_line_for_each_log_step_beside_a_bar_elsewhere(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stderr", terminal[1])
    train(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    starts = ["step  10/100  train/rec_loss", "step  10/100  val/psnr", "step  20/100  train/rec_loss"]
    assert len(lines) == 3 and all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines


def test_without_a_terminal_there_is_nothing_but_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(tmp_path)
    said = capsys.readouterr()
    assert said.err == "" and "\r" not in said.out and len(said.out.splitlines()) == 3
