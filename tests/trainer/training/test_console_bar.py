"""On a terminal a run is a bar with pace, loss and time left; elsewhere a plain line for each log step."""

import errno
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import torch

from smalti.trainer.training.metrics import Metrics
from smalti.trainer.training.throughput import Workload


class Terminal:
    """A pseudo-terminal of 100 columns, the stream that writes to it, and all that was written to it."""

    def __init__(self) -> None:
        self._reads, writes = pty.openpty()
        fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.stream: TextIO = os.fdopen(writes, "w")
        self._parts: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Read until nothing can write any more: a terminal delivers late, and in pieces of 4 KiB."""
        try:
            while part := os.read(self._reads, 1 << 16):
                self._parts.append(part)
        except OSError as error:
            assert error.errno == errno.EIO  # how Linux says that the other end is closed

    def said(self) -> str:
        """Close the stream; everything that was written to it."""
        self.stream.close()
        self._reader.join(30)
        assert not self._reader.is_alive()
        return b"".join(self._parts).decode()

    def close(self) -> None:
        self.said()
        os.close(self._reads)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


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
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(sys, "stdout", terminal.stream)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    train(tmp_path)
    shown = [part.strip() for part in re.split(r"[\r\n]+", terminal.said()) if part.strip()]
    bar = r"20% \|.+\| step 20/100, left \d\d:\d\d, [\d.e+]+ images/s, rec_loss 0.5"
    assert re.fullmatch(bar, shown[-1]), shown[-1]
    assert "step  10/100  val/psnr 21" in shown
    assert all(len(part) <= 100 for part in shown) and not any("train/usage" in part for part in shown)


def test_a_log_file_gets_a_plain_line_for_each_log_step_beside_a_bar_elsewhere(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    train(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    starts = ["step  10/100  train/rec_loss", "step  10/100  val/psnr", "step  20/100  train/rec_loss"]
    assert len(lines) == 3 and all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines


def test_without_a_terminal_there_is_nothing_but_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(tmp_path)
    said = capsys.readouterr()
    assert said.err == "" and "\r" not in said.out and len(said.out.splitlines()) == 3
