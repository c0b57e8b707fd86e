"""Whatever the thread that saves meets is a failed save, and what it says is saved is there."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from smalti.trainer.checkpoint import shards, storage, writer
from smalti.trainer.checkpoint.checkpointer import Checkpointer
from smalti.trainer.checkpoint.save_error import SaveError, needed
from smalti.trainer.checkpoint.writer import Copy, RetentionPolicy, SaveThread, mark_file, part_file
from smalti.trainer.distributed.engine import File
from smalti.trainer.training.metrics import Metrics


def thread(run: Path, step: int = 1, newest: int = 3) -> SaveThread:
    """A save of one small file and weights, its folder made."""
    aside = run / "checkpoints" / f".saving-step-{step:08d}"
    aside.mkdir(parents=True)
    (aside / mark_file(0)).touch()
    files = [File(aside / "rank-0000.pt", {"x": torch.ones(3)})]
    copy = Copy(files, ({"w": torch.ones(2)}, {"task": "vqgan"}), {"step": step, "ranks": 1})
    return SaveThread(run, aside, copy, RetentionPolicy(newest), time.monotonic())


def test_a_save_that_ends_well_is_there_whole_with_nothing_else(tmp_path: Path):
    saving = thread(tmp_path)
    saving.run()
    assert saving.problem == ""
    folder = tmp_path / "checkpoints" / "step-00000001"
    assert storage.verify(folder) is None and storage.is_sealed(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"rank-0000.pt", "model.safetensors", "config.json", "manifest.json"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


class Empty:
    """A task without engines, data without a position, and metrics without sums."""

    engines: Mapping[str, Any] = {}

    def state_dict(self, step: int = 0) -> dict[str, Any]:
        return {}

    def weights(self) -> dict[str, torch.Tensor]:
        return {"w": torch.ones(2)}

    def metadata(self) -> dict[str, Any]:
        return {"task": "vqgan"}


@pytest.mark.parametrize("problem", [None, OSError(errno.ENOSPC, "No space left on device")])
def test_the_end_of_a_save_is_known_before_the_next_one_begins(
    problem: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    may_write, write = threading.Event(), writer.model_files.write

    def slow(*given: Any) -> None:
        may_write.wait()
        if problem is not None:
            raise problem
        write(*given)

    monkeypatch.setattr(writer.model_files, "write", slow)
    saver = Checkpointer(tmp_path, RetentionPolicy(3), Empty(), Empty(), {})
    assert saver.completed() is None
    assert saver.save(Empty(), 1) is None
    assert saver.completed() is None  # it is under way
    may_write.set()
    for thread in threading.enumerate():
        if isinstance(thread, SaveThread):
            thread.join()
    if problem is not None:
        with pytest.raises(SaveError, match=r"step 1 could not be written: .*No space left"):
            saver.completed()
        return
    report = saver.completed()
    assert report is not None and report.step == 1
    assert saver.completed() is None and saver.wait() is None  # it is said once


ERRORS = [
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    MemoryError(),
    ZeroDivisionError("integer modulo by zero"),
    KeyError("files"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["model_files.write", "write_text", "SaveThread._forget_old"])
def test_any_error_in_the_thread_is_a_problem_of_the_save(
    error: Exception, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: object) -> None:
        raise error

    saving = thread(tmp_path)
    monkeypatch.setattr(f"smalti.trainer.checkpoint.writer.{place}", failing)
    saving.run()
    assert type(error).__name__ in saving.problem and saving.problem.startswith("rank 0 on ")


def change(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-3] ^= 1
        (folder / name).write_bytes(data[:-1] if name == "rank-0000.pt" else data)

    return harm


@pytest.mark.parametrize("name", ["manifest.json", "rank-0000.pt"])
def test_what_cannot_be_read_back_is_not_saved(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saving = thread(tmp_path)

    def worn(path: Path) -> None:
        if path.name == "checkpoints":
            change(name)(path / "step-00000001")

    monkeypatch.setattr(writer, "sync", worn)
    saving.run()
    assert "not what was written" in saving.problem
    assert not (tmp_path / storage.LATEST).exists()


def test_a_thread_that_has_not_ended_well_has_a_problem(tmp_path: Path):
    assert thread(tmp_path).problem


def test_a_rank_that_can_write_no_word_is_heard_by_its_mark(tmp_path: Path):
    saving = thread(tmp_path)
    saving._world = 2  # rank 1 has made no mark, or has removed it
    saving.run()
    assert "the part of rank 1 does not come" in saving.problem


def test_a_rank_that_says_why_is_quoted(tmp_path: Path):
    saving = thread(tmp_path)
    saving._world = 2
    (saving.aside / part_file(1)).write_text(json.dumps({"problem": "rank 1 on there: the quota"}))
    saving.run()
    assert "rank 1 on there: the quota" in saving.problem


def test_after_a_failure_a_part_that_does_not_come_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "GRACE_S", 0.1)
    saving = thread(tmp_path)
    saving._world = 2
    (saving.aside / mark_file(1)).touch()  # of a rank that was killed
    saving.start()
    began = time.monotonic()
    assert "the part of rank 1 does not come" in saving.settle()
    assert time.monotonic() - began < 5 and not saving.is_alive()


def test_a_checkpoint_of_the_same_step_is_not_removed_before_the_new_one_is_whole(tmp_path: Path):
    thread(tmp_path).run()
    again = thread(tmp_path)
    again._copy.manifest["step"] = 1
    again.run()
    assert again.problem == ""
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


ENDS_EARLY = """
import sys, time, torch
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_writer import thread
saving = thread(Path(sys.argv[1]))
saving._copy.files[:] = [saving._copy.files[0]._replace(content=torch.zeros(30_000_000))]
saving.start()
raise ValueError("the run has failed")
"""


@pytest.mark.slow
def test_a_process_that_fails_while_a_save_is_under_way_does_not_abort(tmp_path: Path):
    command = [sys.executable, "-c", ENDS_EARLY, str(tmp_path), *map(str, Path(__file__).parents[:3])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1, ended.stderr
    assert storage.verify(tmp_path / "checkpoints" / "step-00000001") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
def test_whatever_the_disk_refuses_is_a_failed_save_with_a_way_out(number: int, tmp_path: Path):
    expected = r"a line could not be written: .*; make room .* run the same command again"
    with pytest.raises(SaveError, match=expected), needed("a line", tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "a"))


def metrics(run: Path) -> Metrics:
    return Metrics(run, 10, None, {})


def test_a_full_disk_for_metrics_is_a_failed_save(tmp_path: Path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(SaveError, match=r"metrics\.jsonl could not be written: OSError: .*No space left.*make room"):
        metrics(tmp_path).write_val(1, {"loss": 1.0})


def test_a_full_disk_for_previews_is_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SaveError, match="a preview could not be written"):
        metrics(tmp_path).write_images(1, {"grid": torch.zeros(4, 4, 3, dtype=torch.uint8)})


def test_a_folder_of_previews_that_cannot_be_made_is_a_failed_save(tmp_path: Path):
    (tmp_path / "images").touch()
    with pytest.raises(SaveError, match="a preview could not be written: FileExistsError"):
        metrics(tmp_path).write_images(1, {"grid": torch.zeros(4, 4, 3, dtype=torch.uint8)})


@pytest.mark.parametrize("harm", ["{", "[]", '{"step": "1"}', "\ufffd", '{"seconds": 1}'])
def test_a_damaged_line_of_metrics_is_passed_over(harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{harm}\n{{"step": 2}}\n{{"step": 3}}\n')
    metrics(tmp_path).rewind(2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert "passing over damaged lines" in capsys.readouterr().err


def test_weights_that_cannot_be_written_leave_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "save_file", lambda *_: (_ for _ in ()).throw(SafetensorError("I/O error")))
    saving = thread(tmp_path)
    saving.run()
    assert "SafetensorError" in saving.problem and storage.list_checkpoints(tmp_path) == []
