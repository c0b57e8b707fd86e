"""Indexes made by scanning tars."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from fixtures.shards import encoded, photo, write_images

from smalti.trainer.shards.access.tar_headers import DamagedTarError
from smalti.trainer.shards.index import ShardIndex
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.scan import scan, write_index_of


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_images(tmp_path, 8)
    return tmp_path / "x-000000.tar"


def write_tar(path: Path, files: list[tuple[str, bytes]], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def header_of(path: Path, name: str) -> int:
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


def test_scanning_finds_what_the_writer_wrote(shard):
    theirs, ours = ShardIndex.read(shard.with_name(shard.name + ".idx")), scan(shard)
    assert ours.tar_bytes == theirs.tar_bytes == shard.stat().st_size
    assert [row.key for row in ours.rows] == [theirs.key(sample) for sample in range(8)]
    assert all(ours.rows[n].members["png"] == theirs.member(n, "png") for n in range(8))
    assert [row.measured for row in ours.rows] == [theirs.measured(sample) for sample in range(8)]


def test_shards_that_webdataset_wrote_are_indexed(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for number in range(5):
            image = photo(20, 30 + number)
            writer.write({"__key__": f"dir.x/k{number}", "png": image, "cls": number, "json": {"n": number}})
    scanned = scan(tmp_path / "w.tar")
    (tmp_path / "w.tar.idx").write_bytes(scanned.to_bytes())
    shards = ShardSet.open([str(tmp_path)])
    assert shards.counts == (5,) and shards.key(0, 3) == "dir.x/k3"
    assert shards.read(0, 3, "cls") == b"3" and shards.measured(0, 3) == (20, 33, 1)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_form_of_tar(tmp_path, form):
    folder = "/".join(["a" * 30] * 4)
    name = f"{folder}/image.cls" if form == tarfile.USTAR_FORMAT else f"{folder}/{'ü' * 80}.cls"
    path = write_tar(tmp_path / "t.tar", [(name, b"7"), ("b.cls", b"8")], format=form)
    assert [row.key + ".cls" for row in scan(path).rows] == [name, "b.cls"]


def test_folders_and_links_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            tar.addfile(entry)
        entry = tarfile.TarInfo("d/a.cls")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"3"))
    assert [row.key for row in scan(tmp_path / "t.tar").rows] == ["d/a"]


def damaged(shard: Path, at: int, data: bytes) -> Path:
    with shard.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return shard


def test_a_damaged_header_is_named_with_its_byte(shard):
    at = header_of(shard, "p004.png")
    with pytest.raises(DamagedTarError, match=rf"x-000000.tar, byte {at}: the header is damaged"):
        scan(damaged(shard, at + 20, b"?"))
    with pytest.raises(DamagedTarError, match=f"byte {at}"):
        scan(damaged(shard, at, np.random.default_rng(0).bytes(512)))


def test_zeros_in_the_middle_are_named(shard):
    at = header_of(shard, "p004.png")
    with pytest.raises(DamagedTarError, match=rf"byte {at}: zeros in the middle, data go on at byte"):
        scan(damaged(shard, at, bytes(1024)))


@pytest.mark.parametrize("into", [0, 100, 512, 700])
def test_a_cut_tar_is_named(shard, into):
    at = header_of(shard, "p004.png") + into
    with shard.open("r+b") as file:
        file.truncate(at)
    with pytest.raises(DamagedTarError, match=f"cut off at byte {at}"):
        scan(shard)


def test_files_of_a_sample_must_lie_together(tmp_path):
    path = write_tar(tmp_path / "t.tar", [("a.cls", b"1"), ("b.cls", b"2"), ("a.json", b"{}")])
    with pytest.raises(DamagedTarError, match="the files of sample 'a' do not follow each other"):
        scan(path)
    path = write_tar(tmp_path / "u.tar", [("a.cls", b"1"), ("a.cls", b"2")])
    with pytest.raises(DamagedTarError, match=r"sample 'a' has two files \.cls"):
        scan(path)


def test_images_without_a_size_are_left_out_by_name(tmp_path):
    small, good = encoded(photo(8, 40), "PNG"), encoded(photo(30, 40), "PNG")
    path = write_tar(tmp_path / "t.tar", [("a.png", b"no image"), ("b.png", small), ("c.png", good)])
    scanned = scan(path, minimum_side=16)
    assert [row.key for row in scanned.rows] == ["c"]
    assert [(left.key, left.reason.split(":")[0]) for left in scanned.skipped] == [
        ("a", ".png cannot be read"),
        ("b", "its sides of 40 x 8 must be at least 16"),
    ]


def test_seekable_images_are_recognized(tmp_path):
    data = encoded(photo(64, 64), "JPEG", restart_marker_blocks=1)
    scanned = scan(write_tar(tmp_path / "t.tar", [("a.jpg", data)]))
    assert scanned.rows[0].members["jpg"].layout


def header(name: str | bytes, size: int = 0, kind: bytes = tarfile.REGTYPE, size_field: bytes | None = None) -> bytes:
    """A header with a right checksum, whatever it says."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, size
    made = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    raw = name if isinstance(name, bytes) else name.encode()
    made[:100] = raw.ljust(100, b"\0")
    made[124:136] = size_field or made[124:136]
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


END = bytes(1024)
GOOD = header("good.cls", 1) + block(b"1")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S", b"Q"])
def test_entries_that_are_no_files_are_named_and_the_others_are_indexed(kind, tmp_path):
    (tmp_path / "t.tar").write_bytes(GOOD + header("p05.png", kind=kind) + END)
    scanned = scan(tmp_path / "t.tar")
    assert [row.key for row in scanned.rows] == ["good"]
    assert [left.key for left in scanned.skipped] == ["p05"] and "p05.png" in scanned.skipped[0].file


def test_hidden_files_are_counted_in_one_line(tmp_path):
    files = [("._a.cls", b"0"), ("a.cls", b"1"), ("d/.DS_Store", b"2"), ("d/._b.cls", b"3"), ("d/b.cls", b"4")]
    scanned = scan(write_tar(tmp_path / "t.tar", files))
    assert [row.key for row in scanned.rows] == ["a", "d/b"]
    assert [left.reason.split(",")[0] for left in scanned.skipped] == ["3 hidden file(s)"]


def test_a_sparse_file_in_the_form_of_pax_is_named(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("a.cls")
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        tar.addfile(entry)
    assert "sparse" in scan(tmp_path / "t.tar").skipped[0].reason


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"caf\xe9.cls", r"caf\xe9"),
        (b"a\nb\x1b[2J.cls", r"a\nb\x1b[2J"),
        (b"../../etc/x.cls", "__/__/etc/x"),
        (b"/etc/x.cls", "etc/x"),
        ("ü ß.cls".encode(), "ü ß"),
    ],
)
def test_names_of_strangers_become_keys_that_lead_nowhere(name, key, tmp_path):
    (tmp_path / "t.tar").write_bytes(header(name, 1) + block(b"1") + END)
    scanned = scan(tmp_path / "t.tar")
    assert [row.key for row in scanned.rows] == [key]
    (tmp_path / "t.tar.idx").write_bytes(scanned.to_bytes())
    assert ShardSet.open([str(tmp_path)]).key(0, 0) == key


def pax(records: bytes) -> bytes:
    return header("x", len(records), tarfile.XHDTYPE) + block(records) + GOOD + END


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header("a.cls", size_field=b"\x80" + (10**18).to_bytes(11, "big")) + GOOD + END, "cut off"),
        (header("a.cls", size_field=b"\xff" * 12) + GOOD + END, "cut off"),
        (header("a.cls", size_field=b"hello       ") + GOOD + END, "its size is no number"),
        (pax(b"garbage without a length"), "malformed"),
        (pax(b"0 path=x\n"), "malformed"),
        (pax(b"999 path=x\n"), "malformed"),
        (pax(b"9 nothing"), "malformed"),
        (pax(b"14 size=hello\n"), "its size is no number"),
        (pax(b"11 size=-1\n"), "its size is no number"),
        (pax(b"32 size=99999999999999999999999\n"), "cut off"),
        (gzip.compress(GOOD + END), "compressed by gzip.*gunzip"),
        (bz2.compress(GOOD + END), "compressed by bzip2"),
        (lzma.compress(GOOD + END), "compressed by xz"),
        (b"(\xb5/\xfd" + bytes(600), "compressed by zstd"),
        (b"PK\3\4" + bytes(600), "a zip archive"),
        (b"", "is empty"),
        (GOOD, "end of the archive is missing"),
    ],
)
def test_an_odd_tar_is_named_and_the_others_are_indexed(data, said, tmp_path):
    (tmp_path / "odd.tar").write_bytes(data)
    with pytest.raises(DamagedTarError, match=said):
        scan(tmp_path / "odd.tar")
    indexed = write_index_of(tmp_path / "odd.tar")
    assert indexed.samples == 0 and indexed.problem and "odd.tar" in indexed.problem
    assert not (tmp_path / "odd.tar.idx").exists()


def test_a_pipe_that_is_called_a_tar_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    indexed = write_index_of(tmp_path / "a.tar")
    assert indexed.problem and "a named pipe" in indexed.problem


def test_a_tar_that_grew_after_it_was_indexed_is_named(shard):
    with tarfile.open(shard, "a") as tar:
        tar.addfile(tarfile.TarInfo("q.cls"))
    with shard.open("ab") as file:
        file.write(bytes(10240))
    with pytest.raises(ValueError, match=r"has grown .* index it again with: smalti index"):
        ShardSet.open([str(shard)])
