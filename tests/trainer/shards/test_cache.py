"""The cache of shards works where it can, and removes what it wrote alone."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from smalti.trainer.shards.cache import ShardCache


def give(data: bytes):
    return lambda file: file.write(data)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_reason_not_to_read(tmp_path: Path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert ShardCache(tmp_path, 100).get("s3://a", 3, give(b"abc")).read_bytes() == b"abc"


def test_a_copy_of_another_size_is_downloaded_again(tmp_path: Path):
    cache = ShardCache(tmp_path, 100)
    cache.path("s3://a").write_bytes(b"ab")  # of a download that was cut
    assert cache.get("s3://a", 3, give(b"abc")).read_bytes() == b"abc"


def test_files_of_the_users_in_the_folder_stay_however_full_it_is(tmp_path: Path):
    mine = {tmp_path / name: b"x" * 90 for name in ("mine.tar", "0123456789abcdef01234567.tar", "notes.txt")}
    for path, data in mine.items():
        path.write_bytes(data)
    cache = ShardCache(tmp_path, 5)
    cache.get("s3://a", 4, give(b"aaaa"))
    cache.get("s3://b", 4, give(b"bbbb"))
    assert not cache.path("s3://a").exists() and cache.path("s3://b").exists()
    assert {path: path.read_bytes() for path in mine} == mine
