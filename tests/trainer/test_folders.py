"""A run's folder takes one job at a time, and goes on only with the config it began with."""

import fcntl
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smalti.trainer import config as configs
from smalti.trainer import early, folders
from smalti.trainer.folders import alone_in, harmless, take_over


@dataclass(frozen=True)
class Inner:
    zero: int = 1
    steps: int = 10


@dataclass(frozen=True)
class Run:
    keep: int = 3
    loss: float = 1.0
    engine: Inner = field(default_factory=Inner)
    loop: Inner = field(default_factory=Inner)


def test_the_resolved_config_is_left_in_the_folder(tmp_path: Path):
    take_over(tmp_path, Run(loss=2.0), Run, fresh=False)
    assert configs.read(Run, tmp_path / "config.yaml") == Run(loss=2.0)


def test_harmless_changes_are_said_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    take_over(tmp_path, Run(), Run, fresh=False)
    changed = Run(keep=5, loop=Inner(steps=20))
    take_over(tmp_path, changed, Run, fresh=False)
    said = capsys.readouterr().out
    assert "keep: 3 -> 5" in said and "loop.steps: 10 -> 20" in said
    assert configs.read(Run, tmp_path / "config.yaml") == changed


def test_a_harmful_change_is_refused_with_its_values_and_nothing_is_changed(tmp_path: Path):
    take_over(tmp_path, Run(), Run, fresh=False)
    with pytest.raises(ValueError, match=r"loss: 1\.0 -> 2\.0\n.*--fresh"):
        take_over(tmp_path, Run(loss=2.0), Run, fresh=False)
    assert configs.read(Run, tmp_path / "config.yaml") == Run()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("generator_training.engine.zero: 1 -> 3", True),
        ("batch.micro: 2 -> 4", True),
        ("timeout_s: 1800.0 -> 60.0", True),
        ("sequence_ranks: 1 -> 2", True),
        ("previews.share: 0.02 -> 0.1", True),
        ("batch.total: 8 -> 16", False),
        ("generator_training.engine.precision: 'fp32' -> 'bf16'", False),
        ("seed: 0 -> 1", False),
        ("model.quantizer.codes: 16 -> 32", False),
    ],
)
def test_what_changes_numbers_by_more_than_rounding_is_harmful(change: str, expected: bool):
    assert harmless(change) is expected


def test_fresh_removes_what_the_run_left_and_nothing_else(tmp_path: Path):
    of_the_run = ("checkpoints/step-00000001/a", "pictures/b.png", "metrics.jsonl", "latest.txt")
    for name in (*of_the_run, "notes.md", "own/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    take_over(tmp_path, Run(loss=2.0), Run, fresh=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["config.yaml", "notes.md", "own/c.txt"]


def test_a_second_job_waits_for_the_folder_and_then_says_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "LOCK_PATIENCE_S", 1.0)
    held = pytest.raises(ValueError, match=r"another job is training in .* \(process \d+ on ")
    with alone_in(tmp_path), held, alone_in(tmp_path):
        pass
    with alone_in(tmp_path):  # it fell with its holder
        pass


def test_a_job_that_is_asked_to_leave_waits_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(early, "raised", lambda: signal.SIGTERM)
    with alone_in(tmp_path), pytest.raises(early.LeftError), alone_in(tmp_path):
        pass


def test_the_lock_falls_after_an_error(tmp_path: Path):
    with pytest.raises(RuntimeError), alone_in(tmp_path):
        raise RuntimeError
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
