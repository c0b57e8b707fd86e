"""Shards without indexes, read in order: every sample as webdataset gives it, and whatever is wrong is found."""

import gzip
import io
import os
import resource
import tarfile
from pathlib import Path

import pytest
import webdataset
from fixtures.shards import write_images

from smalti.trainer.shards.access.in_order import samples_of, shuffled
from smalti.trainer.shards.access.tar_headers import DamagedTarError
from smalti.trainer.shards.access.tar_streams import tar_stream
from smalti.trainer.shards.remote import RemoteConfig

HERE = RemoteConfig(timeout=20)


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    folder = write_images(tmp_path_factory.mktemp("shards"), 8)
    return folder / "x-000000.tar"


def keys(name: object, remote: RemoteConfig = HERE) -> list[str]:
    return [sample["__key__"] for sample in samples_of(str(name), remote)]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def header_of(shard: Path, number: int) -> int:
    """Where the header of a member lies."""
    with tarfile.open(shard) as tar:
        return tar.getmembers()[number].offset


def test_samples_are_those_of_webdataset(shard):
    by_webdataset = webdataset.WebDataset(str(shard), shardshuffle=False)
    for ours, theirs in zip(samples_of(str(shard), HERE), by_webdataset, strict=True):
        same = {name for name in theirs if not name.startswith("__")} | {"__key__"}
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


def test_a_command_gives_the_same_samples_and_its_failure_is_an_error(shard):
    assert keys(f"pipe:cat {shard}") == keys(shard) == [f"p{number:03d}" for number in range(8)]
    with pytest.raises(OSError, match="ended with status 3"):
        tar_stream(f"pipe:head -c 20000 {shard}; exit 3", HERE).drain()


def test_a_command_is_read_in_a_process_with_many_open_files(shard):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("this machine allows no 2048 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert max(held) > 1024 and len(keys(f"pipe:cat {shard}")) == 8
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_command_that_falls_silent_is_not_waited_for(shard):
    with pytest.raises(OSError, match=r"wrote nothing for 0\.2 s"):
        tar_stream(f"pipe:head -c 20000 {shard}; sleep 60", RemoteConfig(timeout=0.2)).drain()


def test_a_file_whose_name_looks_like_a_command_is_a_file(shard, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = written(tmp_path / "pipe:touch started;.tar", shard.read_bytes())
    assert len(keys(f"./{odd.name}")) == 8 and not (tmp_path / "started").exists()


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_damaged_header_is_found_and_nothing_behind_it_is_read(shard, tmp_path, block):
    at = header_of(shard, 12)
    data = bytearray(shard.read_bytes())
    data[at + 100 * block + 1] ^= 0xFF
    found = []
    with pytest.raises(DamagedTarError, match=f"byte {at}: the header is damaged"):
        for sample in samples_of(str(written(tmp_path / "x.tar", bytes(data))), HERE):
            found.append(sample["__key__"])
    assert found == [f"p{number:03d}" for number in range(len(found))] and len(found) <= 4


def test_zeros_in_the_middle_are_no_end(shard, tmp_path):
    at = header_of(shard, 12)
    data = bytearray(shard.read_bytes())
    data[at : at + 1024] = bytes(1024)
    with pytest.raises(DamagedTarError, match=f"byte {at}: zeros in the middle"):
        keys(written(tmp_path / "x.tar", bytes(data)))


@pytest.mark.parametrize("where", ["header", "between", "inside", "end"])
def test_a_cut_shard_is_found(shard, tmp_path, where):
    at = header_of(shard, 12)
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + (last.size + 511) // 512 * 512
    cut = {"header": at + 100, "between": at, "inside": at + 700, "end": end}[where]
    with pytest.raises(DamagedTarError, match=f"cut off at byte {cut}"):
        keys(written(tmp_path / "x.tar", shard.read_bytes()[:cut]))


def test_what_is_no_tar_is_called_what_it_is(shard, tmp_path):
    with pytest.raises(DamagedTarError, match="compressed by gzip; make a plain tar of it: gunzip"):
        keys(written(tmp_path / "x.tar", gzip.compress(shard.read_bytes())))
    with pytest.raises(DamagedTarError, match="is empty"):
        keys(written(tmp_path / "x.tar", b""))
    with pytest.raises(FileNotFoundError):
        keys(tmp_path / "none.tar")


def test_hidden_files_are_no_samples_and_odd_names_are_printable(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a/._p.jpg", "a/p.jpg", "../q\udcff.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"123"))
    assert keys(tmp_path / "x.tar") == ["a/p", "__/q\\xff"]


def test_two_files_of_one_kind_are_an_error_of_the_shard(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("p.jpg", "p.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DamagedTarError, match="duplicate file name"):
        keys(tmp_path / "x.tar")


def test_a_buffer_shuffles_by_its_key_and_loses_nothing():
    def order(size: int, key: int) -> list[int]:
        return [sample["number"] for sample in shuffled(({"number": n} for n in range(50)), size, key)]

    assert order(0, 1) == list(range(50))
    assert sorted(order(10, 1)) == list(range(50)) != order(10, 1) == order(10, 1) != order(10, 2)
    late = [n - place for place, n in enumerate(order(10, 1))]
    assert max(late) <= 9  # none comes earlier than the buffer is long
    assert sum(order(100, 1)[:25]) / 25 == pytest.approx(24.5, abs=10)  # the buffer holds all
