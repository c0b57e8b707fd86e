"""An index whose checksums are right may still be a stranger's: what it says must be possible."""

import json

import pytest
from fixtures.shards import write_images
from mutations import resealed

from smalti.trainer.shards.index import ShardIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return next(write_images(tmp_path_factory.mktemp("shards"), 4).glob("*.idx")).read_bytes()


def rewritten(index: bytes, change) -> bytes:
    first, header, arrays = index.split(b"\n", 2)
    raw = json.loads(header)
    change(raw)
    return resealed(b"\n".join([first, json.dumps(raw).encode(), arrays]))


def array(raw: dict, name: str) -> list:
    return next(each for each in raw["arrays"] if each[0] == name)


def test_an_index_that_is_sealed_again_unchanged_is_read(index):
    assert ShardIndex(rewritten(index, lambda raw: None), "x.idx").samples == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(samples=5),
        lambda raw: raw.update(samples=-1),
        lambda raw: raw.update(samples="4"),
        lambda raw: raw.update(extensions=[*raw["extensions"], "more"]),
        lambda raw: raw.update(extensions=["png", "png", "png"]),
        lambda raw: raw.update(extensions=[1, 2, 3]),
        lambda raw: raw.update(tar_bytes=100),
        lambda raw: raw.update(provenance=[]),
        lambda raw: raw["arrays"].pop(),
        lambda raw: raw["arrays"].append(["more", "|u1", [0]]),
        lambda raw: array(raw, "sizes").__setitem__(2, [3, 4]),
        lambda raw: array(raw, "sizes").__setitem__(2, [-4, -3]),
        lambda raw: array(raw, "keys").__setitem__(2, [10**12]),
        lambda raw: array(raw, "crcs").__setitem__(1, "<i4"),
        lambda raw: array(raw, "crcs").__setitem__(1, "O"),
        lambda raw: array(raw, "crcs").__setitem__(1, "(2,)u1"),
    ],
)
def test_what_no_shard_can_have_is_damage(index, change):
    with pytest.raises(ValueError, match=r"x\.idx is damaged; make it again with: smalti index"):
        ShardIndex(rewritten(index, change), "x.idx")
