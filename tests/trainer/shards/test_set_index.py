"""The index of a folder of shards: a set of any size begins with one file, and nothing is believed that is wrong."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from fixtures.shards import in_the_first_format, write_images
from fixtures.streams import global_batches, make, same

from smalti.launch import index as index_command
from smalti.trainer.shards import reader, set_index
from smalti.trainer.shards.access import indexes
from smalti.trainer.shards.errors import SampleError
from smalti.trainer.shards.index import ShardIndex
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

MANY = 5000
UNDER_A_LOW_LIMIT = """
import os, resource, sys
from pathlib import Path
from smalti.trainer.shards import set_index
from smalti.trainer.shards.reader import ShardSet
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
for listed in (False, True):
    if listed:
        set_index.write(Path(sys.argv[1]))
    before = len(os.listdir("/proc/self/fd"))
    shards = ShardSet.open([sys.argv[1]])
    assert {shards.key(shard, 0) for shard in range(0, len(shards.names), 10)} == {"p000"}
    assert len(os.listdir("/proc/self/fd")) == before
    assert shards.read(len(shards.names) - 1, 3, "cls") == b"3"
    print(shards.samples, shards.unlisted, shards.fingerprint)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "shards", 20, per_shard=4)


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of any size are opened as large ones are."""
    monkeypatch.setattr(reader, "LOOKED_AT", 0)


def test_five_thousand_shards_are_opened_with_256_files(tmp_path):
    one = write_images(tmp_path / "one", 4)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(MANY):
        for suffix in (".tar", ".tar.idx"):
            os.link(one / f"x-000000{suffix}", folder / f"y-{number:06d}{suffix}")
    done = subprocess.run([sys.executable, "-c", UNDER_A_LOW_LIMIT, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unlisted, listed = (line.split() for line in done.stdout.splitlines())
    assert unlisted == [str(4 * MANY), str(MANY), listed[2]] and listed[:2] == [str(4 * MANY), "0"]
    assert (folder / set_index.NAME).stat().st_size < 40 * MANY + 200 + 12 * MANY  # their names besides


def test_a_set_says_the_same_with_its_index_and_without(folder, monkeypatch):
    small = ShardSet.open([str(folder)])
    before = global_batches(folder, 6, world=2, micro=2)
    monkeypatch.setattr(reader, "LOOKED_AT", 0)
    large = ShardSet.open([str(folder)])
    assert (large.unlisted, len(large._indexes)) == (0, 0) and len(small._indexes) == 5
    for name in ("names", "counts", "fingerprint", "order", "provenance", "classes"):
        assert getattr(large, name) == getattr(small, name)
    assert [large.identity(shard) for shard in range(5)] == [small.identity(shard) for shard in range(5)]
    assert same(global_batches(folder, 6, world=2, micro=2, num_workers=1), before)
    make(folder).validate_state(make(folder).state_dict(3))


@pytest.mark.usefixtures("believed")
def test_another_process_gets_what_is_known_and_reads_no_more(folder):
    shards = ShardSet.open([str(folder)])
    (folder / set_index.NAME).unlink()
    again = pickle.loads(pickle.dumps(shards))
    assert again.fingerprint == shards.fingerprint and again.read(4, 3, "cls") == b"19"
    assert list(again._indexes) == [4]


@pytest.mark.usefixtures("believed")
def test_only_so_many_indexes_are_kept(folder, monkeypatch):
    shards = ShardSet.open([str(folder)])
    monkeypatch.setattr(indexes, "_KEPT", 2 * shards.index(0).nbytes + 10)
    for _ in range(2):
        assert [shards.key(shard, 0) for shard in range(5)] == ["p000", "p004", "p008", "p012", "p016"]
        assert list(shards._indexes) == [3, 4]


@pytest.mark.usefixtures("believed")
def test_shards_that_it_does_not_know_are_read_as_without_it(folder):
    write_images(folder / "more", 3, prefix="z")
    for path in (folder / "more").glob("z-*"):
        path.rename(folder / path.name)
    shards = ShardSet.open([str(folder)])
    assert (shards.counts, shards.unlisted) == ((4, 4, 4, 4, 4, 3), 1) and shards.read(5, 2, "cls") == b"2"


def replace_shard(folder: Path) -> None:
    """Other samples under the old name, behind the back of the set's index."""
    write_images(folder / "other", 4, side=30)
    for suffix in (".tar", ".tar.idx"):
        (folder / "other" / f"x-000000{suffix}").rename(folder / f"x-000002{suffix}")


def flip_a_bit(folder: Path) -> None:
    path = folder / "x-000002.tar.idx"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def let_it_grow(folder: Path) -> None:
    with (folder / "x-000002.tar").open("ab") as file:
        file.write(bytes(10_240))


def lose_it(folder: Path) -> None:
    for suffix in (".tar", ".tar.idx"):
        (folder / f"x-000002{suffix}").unlink()


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize(
    ("harm", "kind", "said"),
    [
        (replace_shard, "unusable index", r"not the one of which shards.index tells; make that again"),
        (flip_a_bit, "unusable index", "x-000002.tar.idx is damaged"),
        (let_it_grow, "unusable index", "has grown"),
        (lose_it, "missing shard", r"there is no shard .*x-000002\.tar"),
    ],
)
def test_a_shard_that_is_not_what_it_says_is_counted_and_never_read(folder, harm, kind, said):
    stream = make(folder, max_bad_fraction=1.0)
    harm(folder)
    with pytest.raises(SampleError, match=f"{kind}: sample 1 in .*{said}"):
        stream._sets[0].read(2, 1, "png")
    keys = [key for batch in stream.eval_batches(8) for key in batch["key"]]
    assert keys == [f"p{number:03d}" for number in range(20) if number // 4 != 2] and stream.sample_errors == {kind: 4}
    assert len(next(stream.train_batches())[0]["key"]) == 8


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize("place", [22, 60, -3, -200, None])
def test_a_damaged_one_is_refused_and_the_command_that_makes_it_is_named(folder, place):
    path = folder / set_index.NAME
    data = bytearray(path.read_bytes())
    if place is None:
        del data[-10:]
    else:
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shards\.index is damaged; make it again with: smalti index --keep FOLDER"):
        ShardSet.open([str(folder)])
    assert index_command.main([str(folder), "--keep", "--processes", "1"]) == 0
    assert ShardSet.open([str(folder)]).unlisted == 0


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize(
    "change", [{"shards": 6}, {"shards": -1}, {"shards": "5"}, {"names_bytes": 3}, {"makings": []}, {"makings": [1]}]
)
def test_one_that_is_sealed_but_impossible_is_refused(folder, change):
    path = folder / set_index.NAME
    first, header, rows = path.read_bytes().split(b"\n", 2)
    body = json.dumps(json.loads(header) | change).encode() + b"\n" + rows
    path.write_bytes(first[:-8] + b"%08x\n" % zlib.crc32(body) + body)
    with pytest.raises(ValueError, match="is damaged"):
        ShardSet.open([str(folder)])


def test_indexes_of_the_first_format_are_read_and_rewritten_by_one_command(folder, monkeypatch):
    state = make(folder).state_dict(3)
    before = {path: path.read_bytes() for path in folder.glob("*.idx")}
    for path, data in before.items():
        path.write_bytes(in_the_first_format(ShardIndex(data, "x.idx")))
    (folder / set_index.NAME).unlink()
    old = make(folder)
    old.validate_state(state)
    assert same(list(old.eval_batches(8)), list(make(folder).eval_batches(8)))
    for path in folder.glob("*.tar"):  # the command needs no byte of them
        os.truncate(path, 0)
        os.truncate(path, ShardIndex(before[path.with_name(path.name + ".idx")], "x.idx").tar_bytes)
    assert index_command.main([str(folder), "--keep", "--processes", "1"]) == 0
    assert {path: path.read_bytes() for path in folder.glob("*.idx")} == before
    monkeypatch.setattr(reader, "LOOKED_AT", 0)
    make(folder).validate_state(state)


@pytest.mark.usefixtures("believed")
def test_writing_a_shard_again_takes_the_set_index_away_first(tmp_path):
    for count in (3, 5):
        with ShardWriter(tmp_path, "c", 2, {}) as writer:
            for number in range(writer.samples_done, count):
                writer.write(f"k{number}", {"cls": b"0"})
            assert not (tmp_path / set_index.NAME).exists() or count == 3
        assert ShardSet.open([str(tmp_path)]).unlisted == 0
    assert ShardSet.open([str(tmp_path)]).counts == (2, 2, 1)


def test_another_programs_file_of_its_name_stays(folder):
    (folder / set_index.NAME).write_text("mine")
    assert index_command.main([str(folder)]) == 2
    assert (folder / set_index.NAME).read_text() == "mine"


def test_shards_of_others_get_one_too(tmp_path, monkeypatch):
    write_images(tmp_path / "source", 8, per_shard=4)
    for number in (0, 1):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            (tmp_path / f"{number}.cls").write_text(str(number))
            tar.add(tmp_path / f"{number}.cls", arcname=f"{number}.cls")
    monkeypatch.setattr(reader, "LOOKED_AT", 0)
    assert index_command.main([str(tmp_path / "{0,1}.tar"), "--processes", "1"]) == 0
    shards = ShardSet.open([str(tmp_path / "{1,0}.tar"), str(tmp_path / "source")])
    assert shards.unlisted == 0 and shards.counts == (1, 1, 4, 4) and shards.read(0, 0, "cls") == b"1"
    shutil.rmtree(tmp_path / "source")
