"""Files that are written whole or not at all, and reading only regular ones."""

import os
import socket
import threading
from pathlib import Path

import pytest

from smalti.trainer import files
from smalti.trainer.files import whole_file, write_own, write_whole


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "folder" / "name"
    with whole_file(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "name"
    write_whole(path, b"old")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_who_has_the_old_file_open_goes_on_reading_it(tmp_path):
    path = tmp_path / "name"
    write_whole(path, b"old and long")
    with path.open("rb") as old:
        write_whole(path, b"new")
        assert old.read() == b"old and long"
    assert path.read_bytes() == b"new"


def test_what_would_block_or_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name, kind in (("pipe", "a named pipe"), ("zero", "a device"), ("socket", "a socket"), (".", "a folder")):
            with pytest.raises(OSError, match=kind):
                files.read_regular(tmp_path / name, 100)


def test_a_file_is_read_to_its_end_or_not_at_all(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_regular(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes, more than the 4"):
        files.read_regular(tmp_path / "a", 4)
    with pytest.raises(OSError, match="should have 0 bytes, and has more"):  # as endless files of /proc
        files.read_regular(Path("/proc/self/maps"), 100)


def test_what_a_killed_writer_left_is_taken_over(tmp_path):
    path = tmp_path / "name"
    if (pid := os.fork()) == 0:
        with whole_file(path) as file:
            file.write(b"long and never finished")
            file.flush()
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert [left.name for left in tmp_path.iterdir()] == [".name.part"]
    write_whole(path, b"whole")
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "name"
    with whole_file(path) as file:
        second = threading.Thread(target=write_whole, args=(path, b"second"))
        second.start()
        second.join(0.1)
        assert second.is_alive()
        file.write(b"first, and longer")
    second.join(10)
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_like_the_new_one_is_not_replaced(tmp_path: Path):
    path = tmp_path / "report.html"
    write_own(path, b"first, of smalti", b"smalti")
    write_own(path, b"second, of smalti", b"smalti")
    assert path.read_bytes() == b"second, of smalti"
    path.write_bytes(b"years of notes")
    with pytest.raises(ValueError, match="was not written by this command"):
        write_own(path, b"third, of smalti", b"smalti")
    assert path.read_bytes() == b"years of notes"
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match="was not written by this command"):
        write_own(tmp_path / "link", b"of smalti", b"smalti")


def test_whoever_waits_for_a_file_may_move_its_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rank 0 renames a checkpoint's folder as soon as every rank's part is there."""
    replace = Path.replace

    def replaced_and_moved(self: Path, target: Path) -> Path:
        named = replace(self, target)
        (tmp_path / "writing").rename(tmp_path / "done")
        return named

    (tmp_path / "writing").mkdir()
    monkeypatch.setattr(Path, "replace", replaced_and_moved)
    write_whole(tmp_path / "writing" / "part", b"whole")
    assert (tmp_path / "done" / "part").read_bytes() == b"whole"
    assert not (tmp_path / "writing").exists()
