"""Two commands in one folder: one of them does the work, and the other is refused or finds it done."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fixtures.pairs import write_pair
from fixtures.shards import encoded, photo, write_images

from smalti.launch import encode, export, pack, sample
from smalti.launch.reconstruct import __main__ as reconstruct
from smalti.trainer import files
from smalti.trainer.files import only_command_in


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch):
    plain = files._lock_within
    monkeypatch.setattr(files, "_lock_within", lambda handle, folder, _: plain(handle, folder, 0.3))


def images(folder: Path) -> Path:
    folder.mkdir()
    for number in range(8):
        (folder / f"p{number}.png").write_bytes(encoded(photo(16, 16, number), "PNG"))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_packing_into_a_folder_that_another_packing_fills_is_refused(tmp_path, capsys):
    with only_command_in(tmp_path / "shards"):
        assert pack.main([str(images(tmp_path / "images")), str(tmp_path / "shards"), "--processes", "1"]) == 2
    assert f"another command is writing to {tmp_path / 'shards'}; wait for it" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_encoding_into_a_folder_that_another_encoding_fills_is_refused(tmp_path, capsys):
    tokenizer, shards = write_pair(tmp_path / "pair")[1], write_images(tmp_path / "shards", 3)
    with only_command_in(tmp_path / "codes"):
        assert encode.main([str(tokenizer), str(shards), str(tmp_path / "codes"), "--size", "16"]) == 2
    assert "another command is writing to" in capsys.readouterr().err
    assert encode.main([str(tokenizer), str(shards), str(tmp_path / "codes"), "--size", "16"]) == 0


def test_sampling_into_a_folder_that_another_sampling_fills_is_refused(tmp_path, capsys):
    prior, tokenizer = write_pair(tmp_path / "pair")
    arguments = [str(prior), str(tokenizer), "--size", "16x16", "--out", str(tmp_path / "samples")]
    with only_command_in(tmp_path / "samples"):
        assert sample.main(arguments) == 2
    assert f"another command is writing to {tmp_path / 'samples'}" in capsys.readouterr().err
    assert sample.main(arguments) == 0


def test_reconstructing_into_a_folder_that_another_command_fills_is_refused(tmp_path, capsys):
    tokenizer, shards = write_pair(tmp_path / "pair")[1], write_images(tmp_path / "shards", 3)
    arguments = [str(tokenizer), str(shards), "--out", str(tmp_path / "out")]
    with only_command_in(tmp_path / "out"):
        assert reconstruct.main(arguments) == 2
    assert f"another command is writing to {tmp_path / 'out'}" in capsys.readouterr().err
    assert reconstruct.main(arguments) == 0


@pytest.mark.parametrize("format_", ["smalti", "diffusers"])
def test_exporting_to_a_folder_that_another_export_fills_is_refused(format_, tmp_path, capsys):
    tokenizer = write_pair(tmp_path / "pair")[1]
    arguments = [str(tokenizer), str(tmp_path / "out"), "--format", format_]
    with only_command_in(tmp_path / "out"):
        assert export.main(arguments) == 2
    assert f"another command is writing to {tmp_path / 'out'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_two_commands_fill_is_the_first_ones_whole(tmp_path):
    with files.new_folder(tmp_path / "out") as first:
        (first / "a").touch()
        with pytest.raises(ValueError, match="another command is writing to"), files.new_folder(tmp_path / "out"):
            pass
        (first / "b").touch()
    with pytest.raises(ValueError, match="is there already"), files.new_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "out"]


def test_what_a_killed_command_left_of_a_new_folder_is_gone_after_the_next(tmp_path):
    child = os.fork()
    if not child:
        with files.new_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with files.new_folder(tmp_path / "out") as folder:
        (folder / "whole").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "whole"]


def test_a_folder_that_is_removed_while_a_command_waits_for_it_is_held_anew(tmp_path, monkeypatch):
    monkeypatch.undo()
    entered = threading.Event()

    def first() -> None:
        with only_command_in(tmp_path / "shards"):  # makes it, and removes it as nothing was written
            entered.set()
            time.sleep(0.3)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with only_command_in(tmp_path / "shards", patience_s=60.0):
        with pytest.raises(ValueError, match="another command"), only_command_in(tmp_path / "shards", patience_s=0.0):
            pass
        (tmp_path / "shards" / "kept").touch()
    thread.join()
    assert (tmp_path / "shards" / "kept").exists()


def test_of_packings_at_the_same_time_none_loses_a_shard(tmp_path):
    source = images(tmp_path / "images")
    common = [str(source), "--shard-count", "1", "--processes", "1"]
    assert pack.main([*common, str(tmp_path / "alone")]) == 0
    command = [sys.executable, "-m", "smalti.launch.pack", *common, str(tmp_path / "shared")]
    jobs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert 0 in [job.wait() for job in jobs]
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_a_command_that_is_just_ending_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.undo()
    entered, leave = threading.Event(), threading.Timer(0.5, lambda: done.set())
    done = threading.Event()

    def first() -> None:
        with only_command_in(tmp_path):
            entered.set()
            done.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    leave.start()
    with only_command_in(tmp_path, patience_s=60.0):
        assert done.is_set()
    thread.join()


def test_the_hold_falls_with_the_process_and_leaves_nothing(tmp_path):
    folder = tmp_path / "shards"
    child = os.fork()
    if not child:
        with only_command_in(folder):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with only_command_in(folder):
        assert not list(folder.iterdir())


def test_a_file_system_without_locks_holds_nobody_up(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_command_in(tmp_path / "a"), only_command_in(tmp_path / "a"):
        pass
