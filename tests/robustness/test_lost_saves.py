"""No checkpoint is lost in silence: what the system refuses is a failed save, and the output is not what counts."""

import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from smalti.launch import command
from smalti.trainer.checkpoint import storage
from smalti.trainer.checkpoint.writer import Copy, RetentionPolicy, SaveThread, forget_old, mark_file
from smalti.trainer.distributed.engine import File


def saving(run: Path, step: int = 1) -> SaveThread:
    """A save of some megabytes, its folder made."""
    aside = run / "checkpoints" / f".saving-step-{step:08d}"
    aside.mkdir(parents=True)
    (aside / mark_file(0)).touch()
    files = [File(aside / "rank-0000.pt", {"x": torch.ones(100_000)})]
    copy = Copy(files, ({"w": torch.ones(2)}, {"task": "vqgan"}), {"step": step, "ranks": 1})
    return SaveThread(run, aside, copy, RetentionPolicy(1), 0.0)


def in_a_child(work: Callable[[], bool]) -> bool:
    """What a piece of work found in a process of its own, which may spoil its surroundings."""
    child = os.fork()
    if not child:
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_limit_on_the_size_of_files_is_a_failed_save(tmp_path: Path):
    def limited() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        save = saving(tmp_path)
        save.run()
        return "rank 0 on" in save.problem

    assert in_a_child(limited)
    assert storage.list_checkpoints(tmp_path) == []


def test_a_limit_on_open_files_is_a_failed_save(tmp_path: Path):
    def limited() -> bool:
        save = saving(tmp_path)
        lowest_free = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, lowest_free))
        save.run()
        return "Too many open files" in save.problem

    assert in_a_child(limited)
    assert storage.list_checkpoints(tmp_path) == []


def test_a_folder_that_is_removed_under_a_save_is_a_failed_save(tmp_path: Path):
    save = saving(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    save.run()
    assert "FileNotFoundError" in save.problem or "does not exist" in save.problem
    assert storage.list_checkpoints(tmp_path) == []


def test_what_a_kill_left_between_two_checkpoints_is_tidied_by_the_next_start(tmp_path: Path):
    for step in (1, 2):
        save = saving(tmp_path, step)
        save._keep = RetentionPolicy(5)
        save.run()
        assert save.problem == ""
    (tmp_path / "checkpoints" / ".old-step-00000000").mkdir()
    forget_old(tmp_path, RetentionPolicy(1))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_log_on_a_full_disk_or_without_a_reader_ends_no_work(tmp_path: Path):
    reading, closed = os.pipe()
    os.close(reading)

    def unheard(place: int) -> bool:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(place, number)
            setattr(sys, name, os.fdopen(number, "w", buffering=1))
        command.drop_output_that_fails()
        for _ in range(3):
            command.say("a line")
            print("another", file=sys.stderr, flush=True)
        (tmp_path / str(place)).touch()
        return True

    for place in (os.open("/dev/full", os.O_WRONLY), closed):
        assert in_a_child(lambda: unheard(place)) and (tmp_path / str(place)).exists()  # noqa: B023 (called here)


def test_a_path_whose_bytes_are_no_text_can_be_printed_in_every_encoding(tmp_path: Path):
    place = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)

    def ascii_alone() -> bool:
        sys.stdout = os.fdopen(place, "w", encoding="ascii", errors="strict")
        command.drop_output_that_fails()
        command.say(os.fsdecode(b"caf\xc3\xa9 and caf\xe9"))
        return True

    assert in_a_child(ascii_alone)
    assert (tmp_path / "log").read_text() == "caf\\xe9 and caf\\udce9\n"
