"""Reading samples out of sets of shards."""

import pickle
import re
import shutil
import zlib
from pathlib import Path

import pytest
import webdataset
from fixtures.shards import write_images

from smalti.trainer.shards.errors import SampleError
from smalti.trainer.shards.index import ShardIndex
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "shards", 20)


def test_every_member_is_found_again(folder):
    shards = ShardSet.open([str(folder)])
    assert shards.counts == (8, 8, 4) and shards.samples == 20
    assert shards.provenance == {"made by": "the tests"}
    keys = [shards.key(shard, sample) for shard, count in enumerate(shards.counts) for sample in range(count)]
    assert keys == [f"p{number:03d}" for number in range(20)]
    assert shards.read(1, 3, "cls") == b"11"
    assert shards.measured(1, 3) == (24, 26, 1)
    assert shards.has(1, 3, "segmentation.png") and not shards.has(1, 3, "jpg")


def test_webdataset_reads_the_same(folder):
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    shards = ShardSet.open([str(folder)])
    assert [sample["__key__"] for sample in read] == [f"p{number:03d}" for number in range(20)]
    assert all(
        sample["segmentation.png"] == shards.read(n // 8, n % 8, "segmentation.png") for n, sample in enumerate(read)
    )


def test_a_set_goes_to_another_process(folder):
    shards = ShardSet.open([str(folder)])
    shards.read(0, 0, "cls")
    again = pickle.loads(pickle.dumps(shards))
    assert again.fingerprint == shards.fingerprint and again.read(2, 3, "cls") == b"19"


def test_many_shards_do_not_need_as_many_open_files(tmp_path):
    write_images(tmp_path, 70, per_shard=1)
    shards = ShardSet.open([str(tmp_path)])
    assert [shards.read(shard, 0, "cls") for shard in range(70)] == [b"%d" % number for number in range(70)]
    assert len(shards.files._open) == 64
    assert shards.read(0, 0, "cls") == b"0"


def test_the_fingerprint_knows_contents_and_not_places(folder, tmp_path):
    first = ShardSet.open([str(folder)]).fingerprint
    copied = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert ShardSet.open([str(copied)]).fingerprint == first
    shutil.rmtree(copied)
    assert ShardSet.open([str(write_images(copied, 20, side=25))]).fingerprint != first
    assert ShardSet.open([str(folder / "x-00000{1,0,2}.tar")]).fingerprint != first  # another order


def test_shards_of_different_makings_have_no_common_provenance(folder, tmp_path):
    with ShardWriter(tmp_path / "other", "y", 5, {"made by": "somebody"}) as writer:
        writer.write("a", {"cls": b"1"})
    both = ShardSet.open([str(folder), str(tmp_path / "other")])
    with pytest.raises(ValueError, match=r"made in different ways.*the tests.*somebody"):
        _ = both.provenance


def test_a_flipped_bit_is_found(folder):
    shards = ShardSet.open([str(folder)])
    member = shards.member(0, 2, "png")
    path = folder / "x-000000.tar"
    data = bytearray(path.read_bytes())
    data[member.offset + member.size - 3] ^= 16
    path.write_bytes(data)
    with pytest.raises(SampleError, match=r"damaged member: p002 in .*x-000000.tar: \.png at byte"):
        shards.read(0, 2, "png")
    assert shards.read(0, 3, "cls") == b"3"


def test_a_cut_shard_and_a_missing_one_and_a_missing_field_are_told_apart(folder):
    path = folder / "x-000001.tar"
    shards = ShardSet.open([str(folder)])
    member = shards.member(1, 5, "png")
    with path.open("r+b") as file:
        file.truncate(member.offset + 10)
    (folder / "x-000002.tar").unlink()
    with pytest.raises(SampleError, match=f"truncated shard: p013 .*ends at byte {member.offset + 10}"):
        shards.read(1, 5, "png")
    assert shards.read(1, 4, "cls") == b"12"
    with pytest.raises(SampleError, match="missing shard: p016"):
        shards.read(2, 0, "png")
    with pytest.raises(SampleError, match=r"missing field: p000 .*no \.jpg"):
        shards.read(0, 0, "jpg")


def test_a_shard_without_index_names_the_way_out(folder, tmp_path):
    (folder / "x-000001.tar.idx").unlink()
    with pytest.raises(FileNotFoundError, match=r"x-000001.tar has no index; make one with: smalti index"):
        ShardSet.open([str(folder)])
    odd = tmp_path / "touch run #.tar"
    odd.touch()
    with pytest.raises(FileNotFoundError, match=rf"make one with: smalti index '{re.escape(str(odd))}'$"):
        ShardSet.open([str(odd)])
    with pytest.raises(FileNotFoundError, match=r"there is no shard .*none\.tar"):
        ShardSet.open([str(tmp_path / "none.tar")])


@pytest.mark.parametrize("damage", ["header", "body", "cut", "empty", "other"])
def test_a_damaged_index_is_never_used(folder, damage):
    path = folder / "x-000000.tar.idx"
    data = bytearray(path.read_bytes())
    if damage in ("header", "body"):
        data[60 if damage == "header" else -200] ^= 1
    path.write_bytes({"header": data, "body": data, "cut": data[:-30], "empty": b"", "other": b"tar" + data}[damage])
    with pytest.raises(ValueError, match="smalti index"):
        ShardIndex.read(path)


def test_checksums_are_those_of_zlib(folder):
    shards = ShardSet.open([str(folder)])
    assert shards.member(0, 0, "png").crc == zlib.crc32(shards.read(0, 0, "png"))
