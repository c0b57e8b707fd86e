"""Bad samples: counted, named, replaced or left out."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest
from fixtures.shards import encoded, photo, write_images
from fixtures.streams import global_batches, make, same

from smalti.trainer.images.geometry import Measured
from smalti.trainer.shards.errors import SampleError, SampleErrorLog, TooManySampleErrorsError
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

SAMPLES = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "shards", SAMPLES)


def damage_member(folder: Path) -> set[str]:
    """One flipped bit in one image."""
    member = ShardSet.open([str(folder)]).member(2, 3, "png")
    path = folder / "x-000002.tar"
    data = bytearray(path.read_bytes())
    data[member.offset + 40] ^= 1
    path.write_bytes(data)
    return {"p019"}


def cut_shard(folder: Path) -> set[str]:
    member = ShardSet.open([str(folder)]).member(1, 6, "png")
    with (folder / "x-000001.tar").open("r+b") as file:
        file.truncate(member.offset + 5)
    return {"p014", "p015"}


def remove_shard(folder: Path) -> set[str]:
    (folder / "x-000006.tar").unlink()
    return {"p048", "p049"}


def spoil_image(folder: Path) -> set[str]:
    """An image that was packed damaged: its checksum is right, its pixels cannot be decoded."""
    with ShardWriter(folder, "y", 8, {}) as writer:
        writer.write("bad", {"jpg": encoded(photo(40, 40))[:-300], "segmentation.png": b""}, Measured(40, 40))
    return {"bad"}


def leave_out_a_field(folder: Path) -> set[str]:
    with ShardWriter(folder, "y", 8, {}) as writer:
        writer.write("mapless", {"png": encoded(photo(24, 24), "PNG")}, Measured(24, 24))
    return {"mapless"}


def leave_out_the_image(folder: Path) -> set[str]:
    with ShardWriter(folder, "y", 8, {}) as writer:
        writer.write("blind", {"segmentation.png": encoded(photo(24, 24)[..., 0], "PNG")})
    return {"blind"}


FAULTS = {
    "damaged member": damage_member,
    "truncated shard": cut_shard,
    "missing shard": remove_shard,
    "undecodable": spoil_image,
    "missing field": leave_out_a_field,
}


@pytest.mark.parametrize(("kind", "spoil"), [*FAULTS.items(), ("missing field", leave_out_the_image)])
def test_faulty_samples_are_counted_named_once_and_replaced_alike_everywhere(folder, kind, spoil, caplog):
    bad = spoil(folder)
    stream = make(folder, max_bad_fraction=0.2)
    steps = stream.train_batches()
    with caplog.at_level(logging.WARNING, logger="smalti"):
        batches = [next(steps)[0] for _ in range(13)]  # two epochs
    assert all(len(batch["key"]) == 8 for batch in batches)
    keys = Counter(key for batch in batches for key in batch["key"])
    assert not bad & set(keys)
    assert set(stream.sample_errors) == {kind}
    assert 2 * len(bad) <= stream.sample_errors[kind] <= 3 * len(bad) + 2  # a substitute may be faulty too
    reported = [record.getMessage() for record in caplog.records]
    assert len(reported) == len(bad)
    assert all(kind in line and any(key in line and ".tar" in line for key in bad) for line in reported)

    for world, micro, workers in ((1, 2, 2), (2, 4, 1), (4, 1, 0)):
        elsewhere = global_batches(
            folder, 13 if not workers else 7, world, micro, num_workers=workers, max_bad_fraction=0.5
        )
        assert same(elsewhere, batches[: len(elsewhere)])


def test_a_substitute_stands_where_the_faulty_sample_was(folder):
    sound = Path(shutil.copytree(folder, folder.parent / "sound"))
    damage_member(folder)
    with_fault = [key for batch in global_batches(folder, 6, max_bad_fraction=0.2) for key in batch["key"]]
    without = [key for batch in global_batches(sound, 6) for key in batch["key"]]
    assert [b for a, b in zip(with_fault, without, strict=True) if a != b] == ["p019"]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_faults_end_the_run_with_their_numbers(folder, workers):
    remove_shard(folder)
    stream = make(folder, num_workers=workers, max_bad_fraction=0.01)
    with pytest.raises(
        TooManySampleErrorsError, match=r"(\d) of \d+ samples could not be used \(\1 missing shard\).*x-000006"
    ):
        for _, _ in zip(range(13), stream.train_batches(), strict=False):
            pass


def test_evaluation_leaves_faulty_samples_out_and_counts_them(folder):
    bad = cut_shard(folder)
    stream = make(folder, max_bad_fraction=0.2)
    keys = [key for batch in stream.eval_batches(8) for key in batch["key"]]
    assert keys == [f"p{n:03d}" for n in range(SAMPLES) if f"p{n:03d}" not in bad]
    assert stream.sample_errors == {"truncated shard": 2}


def test_when_nothing_can_be_used_the_run_ends(folder):
    for path in folder.glob("*.tar"):
        path.write_bytes(b"")
    with pytest.raises(RuntimeError, match="64 samples in a row could not be used; the last: truncated shard"):
        next(make(folder, max_bad_fraction=1.0).train_batches())


def test_the_limit_is_a_share_of_what_was_seen_or_of_a_small_set():
    first, *bad = [SampleError("undecodable", "s.tar", f"k{number}", "?") for number in range(102)]
    log = SampleErrorLog(0.01, samples=300)
    for number in range(3):
        log.add(10, [bad[number]])  # 3 of 300 is the limit itself
    for _ in range(50):
        log.add(10, [bad[0]])  # it is met again in every epoch, and is one sample of 300 all the same
    with pytest.raises(TooManySampleErrorsError, match=r"4 of 300 samples could not be used \(4 undecodable\)"):
        log.add(10, [first])
    large = SampleErrorLog(0.01, samples=10**9)
    large.add(100, bad[:100])  # 1 % of the 10 000 that are waited for
    with pytest.raises(TooManySampleErrorsError, match="101 of 10000 samples"):
        large.add(100, bad)
    strict = SampleErrorLog(0.0, samples=10**9)
    with pytest.raises(TooManySampleErrorsError, match="max_bad_fraction = 0"):
        strict.add(10**6, [first])
