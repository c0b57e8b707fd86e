"""An index whose checksums are right may still be a stranger's: what it says must be possible. Old ones are read."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from fixtures.shards import in_the_first_format, write_images
from mutations import resealed

from smalti.trainer.images.geometry import Measured
from smalti.trainer.shards.index import Member, Row, ShardIndex, index_bytes


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return next(write_images(tmp_path_factory.mktemp("shards"), 4).glob("*.idx")).read_bytes()


def rewritten(index: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    first, header, arrays = index.split(b"\n", 2)
    raw = json.loads(header)
    change(raw)
    return resealed(b"\n".join([first, json.dumps(raw).encode(), arrays]))


def array(raw: dict[str, Any], name: str) -> list[Any]:
    return next(each for each in raw["arrays"] if each[0] == name)


def test_an_index_that_is_sealed_again_unchanged_is_read(index):
    assert ShardIndex(rewritten(index, lambda raw: None), "x.idx").samples == 4


IN_BOTH_FORMATS = [
    lambda raw: raw.update(samples=5),
    lambda raw: raw.update(samples=-1),
    lambda raw: raw.update(samples="4"),
    lambda raw: raw.update(extensions=[*raw["extensions"], "more"]),
    lambda raw: raw.update(extensions=["png", "png", "png"]),
    lambda raw: raw.update(extensions=[1, 2, 3]),
    lambda raw: raw.update(tar_bytes=100),
    lambda raw: raw.update(tar_bytes=2**80),
    lambda raw: raw.update(provenance=[]),
    lambda raw: raw["arrays"].pop(),
    lambda raw: raw["arrays"].append(["more", "|u1", [0]]),
]


@pytest.mark.parametrize(
    "change",
    [
        *IN_BOTH_FORMATS,
        lambda raw: array(raw, "sizes").__setitem__(2, [3, 4]),
        lambda raw: array(raw, "sizes").__setitem__(2, [-4, -3]),
        lambda raw: array(raw, "keys").__setitem__(2, [10**12]),
        lambda raw: array(raw, "crcs").__setitem__(1, "<i4"),
        lambda raw: array(raw, "crcs").__setitem__(1, "O"),
        lambda raw: array(raw, "crcs").__setitem__(1, "(2,)u1"),
    ],
)
def test_what_no_shard_can_have_is_damage_in_the_first_format(index, change):
    first = in_the_first_format(ShardIndex(index, "x.idx"))
    assert ShardIndex(rewritten(first, lambda raw: None), "x.idx").samples == 4
    with pytest.raises(ValueError, match=r"x\.idx is damaged; make it again with: smalti index"):
        ShardIndex(rewritten(first, change), "x.idx")


@pytest.mark.parametrize(
    "change",
    [
        *IN_BOTH_FORMATS,
        lambda raw: raw.update(identity=-1),
        lambda raw: raw.update(order="x"),
        lambda raw: raw.update(tar_order=[0, 0, 1]),
        lambda raw: raw.update(tar_order=[0, 1]),
        lambda raw: array(raw, "sizes.0").__setitem__(2, [3]),
        lambda raw: array(raw, "keys").__setitem__(2, [10**12]),
        lambda raw: array(raw, "key_sizes").__setitem__(1, "O"),
        lambda raw: array(raw, "distances.1").__setitem__(1, "<u4"),
        lambda raw: array(raw, "crcs.1").__setitem__(0, "sizes.9"),
    ],
)
def test_what_no_shard_can_have_is_damage(index, change):
    with pytest.raises(ValueError, match=r"x\.idx is damaged; make it again with: smalti index"):
        ShardIndex(rewritten(index, change), "x.idx")


def made_up_rows(draws: random.Random) -> tuple[list[Row], int]:
    """Rows as writers of all sorts leave them: missing members, other orders, gaps, huge files, letters of any land."""
    rows, place = [], 0
    kinds = draws.sample(["jpg", "cls", "json", "segmentation.tif", "txt"], draws.randrange(1, 6))
    largest = draws.choice([300, 70_000, 2**33])
    regular = draws.random() < 0.5
    for number in range(draws.choice([0, 1, 2, 40])):
        members = {}
        for kind in kinds if regular else draws.sample(kinds, draws.randrange(len(kinds) + 1)):
            size = draws.randrange(largest)
            offset = place + (512 if regular else 512 * draws.randrange(1, 5))
            layout = draws.randbytes(draws.randrange(1, 40)) if draws.random() < 0.1 else b""
            members[kind] = Member(offset, size, draws.getrandbits(32), layout)
            place = offset + size + -size % 512
        side = draws.randrange(draws.choice([1, 300, 90_000]))
        rows.append(
            Row(f"{draws.choice('aäå語')}/{number}" * draws.randrange(1, 3), members, Measured(side, 7, number % 9))
        )
    return rows, place + 1024


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_is_read_in_both_formats_and_has_one_fingerprint(seed):
    rows, tar_bytes = made_up_rows(random.Random(seed))
    index = ShardIndex(index_bytes(rows, tar_bytes, {"made": "here"}, {"seed": seed}), "x.idx")
    first = ShardIndex(in_the_first_format(index), "x.idx")
    for read in (index, first, ShardIndex(first.to_bytes(), "x.idx")):
        assert [read.key(n) for n in range(read.samples)] == [row.key for row in rows]
        assert [read.measured(n) for n in range(read.samples)] == [row.measured for row in rows]
        for number, row in enumerate(rows):
            kept = {kind: read.member(number, kind) for kind in read.extensions if read.has(number, kind)}
            assert kept == dict(row.members)
        assert (read.digest, read.order, read.tar_bytes) == (index.digest, index.order, tar_bytes)
        assert (read.provenance, read.notes) == ({"made": "here"}, {"seed": seed})
    assert first.to_bytes() == index.to_bytes()


def test_a_sample_of_a_photo_and_a_label_takes_twenty_bytes_and_its_key():
    rows, place = [], 0
    for number in range(1000):
        size = 90_000 + 7 * number
        label = Member(place + 512 + size + -size % 512 + 512, 3, 12_345 * number)
        rows.append(
            Row(f"{number:09d}", {"jpg": Member(place + 512, size, number**3), "cls": label}, Measured(375, 500))
        )
        place = label.offset + 512
    data = index_bytes(rows, place + 1024, {}, {})
    assert len(data) < 1000 * (20 + 9) + 1000  # the last for the header
    assert len(in_the_first_format(ShardIndex(data, "x.idx"))) > 3 * len(data)
