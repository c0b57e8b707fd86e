"""A run's folder takes one job at a time, and goes on only with the config it began with."""

import errno
import fcntl
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import processes
import pytest
from fixtures import runs

from smalti.trainer import config as configs
from smalti.trainer.checkpoint import sealed
from smalti.trainer.distributed import signals
from smalti.trainer.distributed.watchdog import Watchdog
from smalti.trainer.jobs import run_dir, side_files
from smalti.trainer.jobs.run_dir import claim_run_dir, run_dir_lock
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.schema import MAY_CHANGE
from smalti.trainer.vqgan.config import VQGANRun


@dataclass(frozen=True)
class Inner:
    zero: int = 1
    steps: int = 10


@dataclass(frozen=True)
class Run:
    keep: int = field(default=3, metadata=MAY_CHANGE)
    loss: float = 1.0
    engine: Inner = field(default_factory=Inner)
    loop: Inner = field(default_factory=Inner, metadata=MAY_CHANGE)


def saved(run: Path) -> None:
    """Leave in a folder what a first save leaves."""
    (run / "latest.txt").write_text("step-00000001")


def test_the_resolved_config_is_left_in_the_folder(tmp_path: Path):
    claim_run_dir(tmp_path, Run(loss=2.0), Run, fresh=False)
    assert configs.read(Run, tmp_path / "config.yaml") == Run(loss=2.0)


def test_harmless_changes_are_said_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    claim_run_dir(tmp_path, Run(), Run, fresh=False)
    saved(tmp_path)
    changed = Run(keep=5, loop=Inner(steps=20))
    claim_run_dir(tmp_path, changed, Run, fresh=False)
    said = capsys.readouterr().out
    assert "keep: 3 -> 5" in said and "loop.steps: 10 -> 20" in said
    assert configs.read(Run, tmp_path / "config.yaml") == changed


def test_a_harmful_change_is_refused_with_its_values_and_nothing_is_changed(tmp_path: Path):
    claim_run_dir(tmp_path, Run(), Run, fresh=False)
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"loss: 1\.0 -> 2\.0\n.*initial_weights.*--fresh"):
        claim_run_dir(tmp_path, Run(loss=2.0), Run, fresh=False)
    assert configs.read(Run, tmp_path / "config.yaml") == Run()


@pytest.mark.parametrize("left", [b"", b"\xff\xfe\x00", b"loss: [", b"- 1\n"])
def test_a_damaged_config_of_the_run_is_replaced_by_that_of_a_checkpoint(tmp_path: Path, capsys: Any, left: bytes):
    claim_run_dir(tmp_path, Run(), Run, fresh=False)
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (tmp_path / "config.yaml").write_bytes(left)
    with pytest.raises(ValueError, match=r"config\.yaml has 1 problem(.|\n)*restore that file, or choose another"):
        claim_run_dir(tmp_path, Run(), Run, fresh=False)
    (checkpoint / "manifest.json").write_text(sealed.sealed({"config": configs.to_mapping(Run())}))
    with pytest.raises(ValueError, match=r"loss: 1\.0 -> 2\.0"):
        claim_run_dir(tmp_path, Run(loss=2.0), Run, fresh=False)
    claim_run_dir(tmp_path, Run(keep=4), Run, fresh=False)
    said = capsys.readouterr().out
    assert f"the config in the manifest of {checkpoint} takes its place" in said and "keep: 3 -> 4" in said
    assert configs.read(Run, tmp_path / "config.yaml") == Run(keep=4)
    claim_run_dir(tmp_path, Run(keep=4), Run, fresh=False)
    assert "takes its place" not in capsys.readouterr().out


def claimed(folder: str) -> str:
    try:
        claim_run_dir(Path(folder), Run(), Run, fresh=False)
    except ValueError as error:
        return str(error)
    return ""


def test_what_only_rank_0_cannot_do_is_an_error_on_every_rank(tmp_path: Path):
    (tmp_path / "config.yaml").mkdir()
    first, second = processes.run(claimed, 2, tmp_path)
    assert first == second and str(tmp_path / "config.yaml") in first


def test_a_start_that_saved_nothing_binds_nobody(tmp_path: Path):
    claim_run_dir(tmp_path, Run(), Run, fresh=False)
    claim_run_dir(tmp_path, Run(loss=2.0), Run, fresh=False)
    assert configs.read(Run, tmp_path / "config.yaml") == Run(loss=2.0)


def test_a_config_of_the_users_in_the_folder_stays(tmp_path: Path):
    own = "# found by hand\nloss: 2.0\n"
    (tmp_path / "config.yaml").write_text(own)
    claim_run_dir(tmp_path, Run(loss=2.0), Run, fresh=False)
    saved(tmp_path)
    claim_run_dir(tmp_path, Run(loss=2.0, keep=4), Run, fresh=False)
    assert (tmp_path / "config.yaml").read_text() == own
    assert configs.read(Run, run_dir.resolved_config(tmp_path)) == Run(loss=2.0, keep=4)
    with pytest.raises(ValueError, match="loss"):
        claim_run_dir(tmp_path, Run(loss=3.0), Run, fresh=False)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("training.engine.zero_stage", True),
        ("batch.micro_batch_size", True),
        ("timeout_s", True),
        ("sequence_parallel_size", True),
        ("previews.share", True),
        ("train_data.prefetch", True),
        ("train_data.max_bad_fraction", True),
        ("val_data.remote.cache", True),
        ("train_data.shards", True),
        ("keep_every", True),
        ("tokenizer", True),
        ("batch.global_batch_size", False),
        ("training.engine.precision", False),
        ("seed", False),
        ("model.layers", False),
        ("train_data.shuffle_window", True),  # the state of the data refuses another
        ("train_data.crop.window", False),
        ("ema_decay", False),
    ],
)
def test_what_changes_numbers_by_more_than_rounding_is_harmful(path: str, expected: bool, tmp_path: Path):
    run = configs.read(PriorRun | VQGANRun, runs.write_prior(tmp_path))
    assert configs.may_change(run, path) is expected


WRITTEN = {  # as a run writes them
    "metrics.jsonl": '{"step": 0, "seconds": 0.1}\n',
    "latest.txt": "step-00000001\n",
    "exit-code": "1\n",
    "failure.txt": "rank 0 on here: ValueError: no\n",
    "remaining-hosts.txt": side_files.HOSTS_MARK.decode(),
    "wandb-id.txt": "0123abcd",
    "wandb-sent.txt": "4\n",
}


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_fresh_removes_what_the_run_left_and_nothing_else(tmp_path: Path):
    claim_run_dir(tmp_path, Run(), Run, fresh=False)
    of_the_run = WRITTEN | {
        "checkpoints/step-00000001/manifest.json": "{}",
        "checkpoints/corrupt-step-00000002/rank-0000.pt": "",
        "checkpoints/.old-step-00000000/manifest.json": "{}",
        "images/reconstructions-00000004.png": "",
    }
    of_the_user = (
        "notes.md", "notes.txt", "my.yaml", "labels.jsonl", "own/c.txt", "images/holiday-20240115.png", "hosts.txt",
        "checkpoints/best/weights.pt", "checkpoints/corrupt-photos/a.jpg", "checkpoints/corrupt-step-00000003/a.jpg",
    )  # fmt: skip
    put(tmp_path, of_the_run | dict.fromkeys(of_the_user, "mine"))
    claim_run_dir(tmp_path, Run(loss=2.0), Run, fresh=True)
    left = contents(tmp_path)
    assert left.pop("config.yaml").startswith(run_dir.MARK)
    assert left == dict.fromkeys(of_the_user, "mine")


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "name", [*WRITTEN, "checkpoints/step-00001000/pytorch_model.bin", "images/samples-00000010.png"]
)
def test_a_new_run_is_refused_where_it_would_write_over_somebody_elses_file(tmp_path: Path, name: str, fresh: bool):
    put(tmp_path, {name: "mine"})
    with pytest.raises(ValueError, match=r"was not written by a run; move it away, or choose another folder") as caught:
        claim_run_dir(tmp_path, Run(), Run, fresh=fresh)
    assert str(tmp_path / name).startswith(str(caught.value).partition(" would be")[0])
    assert contents(tmp_path) == {name: "mine"}


@pytest.mark.parametrize("name", ["checkpoints", "images"])
def test_a_file_where_a_run_needs_a_folder_is_refused_before_the_first_step(tmp_path: Path, name: str):
    put(tmp_path, {name: "mine"})
    with pytest.raises(ValueError, match="move it away"):
        claim_run_dir(tmp_path, Run(), Run, fresh=False)


def test_side_files_of_a_run_that_are_damaged_do_not_stop_it(tmp_path: Path):
    claim_run_dir(tmp_path, Run(), Run, fresh=False)
    put(tmp_path, dict.fromkeys(WRITTEN, "\x00\x01 damaged"))
    claim_run_dir(tmp_path, Run(), Run, fresh=False)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_does_not_hold_the_run_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with run_dir_lock(tmp_path):
        assert "without locks" in capsys.readouterr().err


def test_a_second_job_waits_for_the_folder_and_then_says_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_dir, "LOCK_PATIENCE_S", 1.0)
    held = pytest.raises(ValueError, match=r"another job is training in .* \(process \d+ on ")
    with run_dir_lock(tmp_path), held, run_dir_lock(tmp_path):
        pass
    with run_dir_lock(tmp_path):  # it fell with its holder
        pass


def test_a_job_that_is_asked_to_leave_waits_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signals, "raised", lambda: signal.SIGTERM)
    with run_dir_lock(tmp_path), pytest.raises(signals.StopRequestedError), run_dir_lock(tmp_path):
        pass


def test_the_lock_falls_after_an_error(tmp_path: Path):
    with pytest.raises(RuntimeError), run_dir_lock(tmp_path):
        raise RuntimeError
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_file_that_is_the_users_stays_as_it_is(tmp_path: Path):
    put(tmp_path, {".lock": "years of notes"})
    with pytest.raises(ValueError, match=r"\.lock was not written by a run; move it away"), run_dir_lock(tmp_path):
        pass
    assert contents(tmp_path) == {".lock": "years of notes"}
    put(tmp_path, {"latest.txt": "step-00000001\n"})  # in a run's folder it is the run's, damaged
    with run_dir_lock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith("process ")


def test_fresh_keeps_the_lock_that_is_held(tmp_path: Path):
    with run_dir_lock(tmp_path):
        claim_run_dir(tmp_path, Run(), Run, fresh=True)
        assert (tmp_path / ".lock").exists()


def hold(folder: str) -> None:
    """Exit code 3 where the folder cannot be held, and why."""
    try:
        with run_dir_lock(Path(folder)):
            pass
    except ValueError as error:
        print(error)
        os._exit(3)


def test_a_folder_that_cannot_be_written_is_told_to_every_rank(tmp_path: Path):
    ended = processes.start(hold, 2, "/proc/no-folder-of-a-run").wait()
    assert ended.codes == [3, 3], ended.log
    assert all("/proc/no-folder-of-a-run" in said for said in ended.outputs)


def wait_under_a_watchdog(folder: str) -> None:
    run_dir.LOCK_PATIENCE_S = 7.5
    with Watchdog(6.0, launched=False):
        hold(folder)


def test_who_waits_for_another_job_is_not_taken_for_stalled_on_any_rank(tmp_path: Path):
    with run_dir_lock(tmp_path):
        ended = processes.start(wait_under_a_watchdog, 2, str(tmp_path)).wait()
    assert ended.codes == [3, 3], ended.log
    assert all("another job is training in" in said for said in ended.outputs)
