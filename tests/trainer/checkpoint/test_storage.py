"""A checkpoint is whole or it is not there: damage is found and named, and nothing starts from scratch unasked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smalti.trainer.checkpoint import storage
from smalti.trainer.checkpoint.storage import CheckpointInfo, latest_valid, list_checkpoints, verify
from smalti.trainer.files import sha256, write_text


def write_checkpoint(run: Path, step: int) -> Path:
    """A checkpoint of two files by hand."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    (folder / "generator").mkdir(parents=True)
    (folder / "generator" / "weights.pt").write_bytes(bytes(range(200)))
    (folder / "rank-0000.pt").write_bytes(b"state")
    files = {name: storage.described(folder / name) for name in ("generator/weights.pt", "rank-0000.pt")}
    (folder / "manifest.json").write_text(json.dumps({"step": step, "files": files}))
    return folder


def flip(folder: Path) -> None:
    data = bytearray((folder / "generator/weights.pt").read_bytes())
    data[100] ^= 1
    (folder / "generator/weights.pt").write_bytes(data)


def truncate(folder: Path) -> None:
    (folder / "rank-0000.pt").write_bytes(b"stat")


def remove(folder: Path) -> None:
    (folder / "rank-0000.pt").unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:20])


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


DAMAGES = [
    (flip, "generator/weights.pt is not what was written"),
    (truncate, "rank-0000.pt has 4 bytes, not 5"),
    (remove, "rank-0000.pt is missing"),
    (no_manifest, "manifest.json cannot be read"),
    (cut_manifest, "manifest.json cannot be read"),
    (empty_manifest, "manifest.json cannot be read"),
]


def test_the_checksum_is_that_of_the_standard(tmp_path: Path):
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_whole_checkpoint_has_no_damage(tmp_path: Path):
    assert verify(write_checkpoint(tmp_path, 1)) is None


@pytest.mark.parametrize(("harm", "message"), DAMAGES)
def test_damage_is_found_and_the_file_named(harm: Callable[[Path], None], message: str, tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    harm(folder)
    assert str(verify(folder)).startswith(message)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_that_share_the_work_leave_nothing_unread(world: int, tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    flip(folder)
    found = [verify(folder, rank, world) for rank in range(world)]
    assert len([problem for problem in found if problem]) == 1


def test_the_newest_is_the_one_of_the_highest_step_and_other_folders_are_none(tmp_path: Path):
    for step in (20, 100, 3):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / ".saving-step-00000200").mkdir()
    (tmp_path / "checkpoints" / "corrupt-step-00000300").mkdir()
    assert [found.step for found in list_checkpoints(tmp_path)] == [100, 20, 3]
    assert latest_valid(tmp_path) == CheckpointInfo(100, tmp_path / "checkpoints" / "step-00000100")


def test_a_damaged_newest_is_named_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good, bad = write_checkpoint(tmp_path, 1), write_checkpoint(tmp_path, 2)
    flip(bad)
    assert latest_valid(tmp_path) == CheckpointInfo(1, good)
    assert f"passing over a damaged checkpoint: {bad}: generator/weights.pt" in capsys.readouterr().err


def test_a_run_that_never_saved_has_none(tmp_path: Path):
    assert latest_valid(tmp_path) is None


def test_a_run_of_which_none_is_whole_is_refused_with_every_reason(tmp_path: Path):
    for harm, step in ((flip, 1), (truncate, 2)):
        harm(write_checkpoint(tmp_path, step))
    with pytest.raises(ValueError, match="--fresh") as refused:
        latest_valid(tmp_path)
    assert "weights.pt is not what" in str(refused.value) and "has 4 bytes" in str(refused.value)


def test_checkpoints_that_are_gone_are_not_taken_for_a_run_that_never_saved(tmp_path: Path):
    (tmp_path / storage.LATEST).write_text("step-00000001\n")
    with pytest.raises(ValueError, match=r"--fresh[\s\S]*none left in"):
        latest_valid(tmp_path)


def test_what_is_set_aside_is_no_checkpoint_any_more(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    for _ in range(2):  # the second takes the place of the first
        storage.quarantine(folder)
        assert list_checkpoints(tmp_path) == []
        assert [path.name for path in storage.leftovers(tmp_path, storage.CORRUPT)] == ["corrupt-step-00000001"]
        folder = write_checkpoint(tmp_path, 1)


def test_a_small_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path):
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "two")]


def test_a_reader_follows_a_run_that_removes_its_old_checkpoint_for_a_new_one(
    tmp_path: Path, monkeypatch: Any, capsys: Any
):
    first = write_checkpoint(tmp_path, 1)
    plain = storage.verify

    def meanwhile(folder: Path, states: bool) -> str | None:
        if folder == first:
            write_checkpoint(tmp_path, 2)
            storage.remove(first)
        return plain(folder, states=states)

    monkeypatch.setattr(storage, "verify", meanwhile)
    assert latest_valid(tmp_path) == CheckpointInfo(2, tmp_path / "checkpoints" / "step-00000002")
    assert capsys.readouterr().err == ""


def test_a_checkpoint_vanishes_at_once_and_a_killed_removal_is_no_damaged_checkpoint(tmp_path: Path, monkeypatch: Any):
    folder = write_checkpoint(tmp_path, 1)

    def killed(aside: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            assert not folder.exists()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage.shutil, "rmtree", killed)
        storage.remove(folder)
    assert list_checkpoints(tmp_path) == []
    (left,) = storage.leftovers(tmp_path, storage.OLD)
    storage.remove(left)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_folders_of_other_programs_with_names_of_checkpoints_are_told_apart(tmp_path: Path):
    write_checkpoint(tmp_path, 1)
    no_manifest(write_checkpoint(tmp_path, 2))
    remove(write_checkpoint(tmp_path, 3))
    foreign = tmp_path / "checkpoints" / "step-00000004"
    for path in (foreign / "model.safetensors", tmp_path / "checkpoints" / "corrupt-step-00000005" / "photo.jpg"):
        path.parent.mkdir()
        path.touch()
    (tmp_path / "checkpoints" / "step-00000006").mkdir()
    assert storage.strangers(tmp_path) == [foreign]
    assert storage.leftovers(tmp_path, storage.CORRUPT) == []


def test_a_checkpoint_that_was_moved_and_linked_is_read_and_never_removed(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    moved = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(moved)
    assert latest_valid(tmp_path) == CheckpointInfo(1, folder)
    with pytest.raises(OSError, match="is a link"):
        storage.remove(folder)
    assert verify(moved) is None and folder.is_symlink()
