"""The cache of shards works where it can, and removes what it wrote alone."""

import errno
import fcntl
import multiprocessing
import os
import random
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from smalti.trainer.shards.cache import ShardCache
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.remote import RemoteConfig
from smalti.trainer.shards.writer import Sample, write_shard


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


def bytes_on_the_disk(folder: Path) -> int:
    """Of copies, unfinished ones, and removed ones that a process of ours still has open; each file counts once."""
    sizes = {}
    for path in folder.iterdir():
        if path.suffix in (".tar", ".part"):
            status = path.stat()
            sizes[status.st_ino] = status.st_size
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            target = str(link.readlink())
            if target.startswith(f"{folder}/") and target.endswith("(deleted)"):
                status = link.stat()
                sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def read_shards(url: str, folder: Path, limit: int, seed: int) -> None:
    """Reads of 12 shards in an order of its own, many times; ends with 0 if every byte was right."""
    remote = RemoteConfig(fetch="shards", cache=str(folder), cache_gigabytes=limit / 1e9)
    shards = ShardSet.open([url], remote)
    draws = random.Random(seed)
    for _ in range(150):
        shard = draws.randrange(12)
        assert shards.read(shard, 0, "txt") == b"%02d" % shard * 20_000
    os._exit(0)


def test_the_limit_holds_for_all_processes_together_open_files_and_downloads_included(tmp_path: Path):
    for number in range(12):
        write_shard(tmp_path / f"x-{number:02d}.tar", [Sample("a", {"txt": b"%02d" % number * 20_000})], {})
    cache, size = tmp_path / "cache", (tmp_path / "x-00.tar").stat().st_size
    url, limit = f"file://{tmp_path}/x-{{00..11}}.tar", 4 * size + 100
    fork = multiprocessing.get_context("fork")
    readers = [fork.Process(target=read_shards, args=(url, cache, limit, seed)) for seed in range(3)]
    for reader in readers:
        reader.start()
    most = 0
    while any(reader.is_alive() for reader in readers):
        with suppress(FileNotFoundError):
            # Twice: what one look counts as removed by a process and as newly come to another was not there at once.
            most = max(most, min(bytes_on_the_disk(cache), bytes_on_the_disk(cache)))
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    assert size <= most <= 1.05 * limit


def test_room_is_kept_for_a_download_that_is_on_its_way_and_not_for_one_whose_process_is_gone(tmp_path: Path):
    cache = ShardCache(tmp_path, 10)
    asked, going = threading.Event(), threading.Event()

    def slow(file):
        asked.set()
        going.wait(10)
        file.write(b"x" * 6)

    first = threading.Thread(target=cache.get, args=("s3://a", 6, slow))
    first.start()
    asked.wait(10)
    second = threading.Thread(target=cache.get, args=("s3://b", 6, give(b"y" * 6)))
    second.start()
    second.join(0.2)
    assert second.is_alive() and not cache.path("s3://b").exists()
    going.set()
    first.join(10)
    second.join(10)
    assert cache.path("s3://b").exists() and not cache.path("s3://a").exists()
    cache.path("s3://gone").with_suffix(".lock").write_text("9")  # of a process that was killed
    assert cache.get("s3://c", 4, give(b"zzzz")).read_bytes() == b"zzzz" and cache.path("s3://b").exists()
