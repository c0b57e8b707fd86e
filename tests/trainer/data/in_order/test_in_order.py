"""``fetch: stream``: shards without indexes, read in order, with the samples, crops and counts of any other way."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.hostile_server import serving
from fixtures.shards import write_images
from fixtures.streams import CROP, make, same

from smalti.trainer.data.collate import Batch
from smalti.trainer.data.config import DataConfig, SourceConfig
from smalti.trainer.data.crops import CodeCropConfig
from smalti.trainer.data.in_order.dealing import Dealing, ShardLine
from smalti.trainer.data.streams import open_stream
from smalti.trainer.data.workers.datasets import ReadUpTo
from smalti.trainer.distributed import ranks
from smalti.trainer.shards.access import requests
from smalti.trainer.shards.errors import TooManySampleErrorsError
from smalti.trainer.shards.remote import RemoteConfig

SAMPLES = 50  # in 7 shards
EVERY = {f"p{number:03d}" for number in range(SAMPLES)}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("indexed"), SAMPLES)


@pytest.fixture(scope="module")
def folder(indexed, tmp_path_factory) -> Path:
    """The same shards without any index."""
    return bare(indexed, tmp_path_factory.mktemp("bare"))


def bare(indexed: Path, to: Path) -> Path:
    for tar in indexed.glob("*.tar"):
        shutil.copy(tar, to)
    return to


def stream(shards: Path | str, rank: int = 0, world: int = 1, micro: int = 8, **options: Any) -> Any:
    """One rank's stream with global batches of 8."""
    remote = RemoteConfig(**{"fetch": "stream", **options.pop("remote", {})})
    fields = options.pop("fields", ("image", "segmentation"))
    options = {"shards": (str(shards),), "crop": CROP, "remote": remote, "shuffle_buffer": 5, **options}
    place = {"global_batch": 8, "micro_batch": micro, "rank": rank, "world": world}
    return open_stream(DataConfig(**options), fields, seed=3, **place)


def steps(batches: Any, count: int) -> list[Batch]:
    """The micro-batches of some steps, one after another."""
    return [batch for step in islice(batches, count) for batch in step]


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


def test_each_epoch_holds_every_sample_once_in_an_order_of_its_own(folder):
    read = keys(steps(stream(folder).train_batches(), 25))
    epochs = [read[start : start + SAMPLES] for start in range(0, 200, SAMPLES)]
    assert all(set(epoch) == EVERY for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != sorted(epochs[0])


def test_a_sample_of_an_epoch_is_cut_as_with_an_index(indexed, folder):
    def rows(batches: list[Batch]) -> dict[str, list[torch.Tensor]]:
        """Of each key, what was made of it in the first epoch."""
        found = {}
        for batch in batches:
            for row, key in enumerate(batch["key"]):
                found.setdefault(key, [batch[name][row] for name in ("image", "segmentation", "box", "flip", "cls")])
        return found

    fields = ("image", "segmentation", "cls")
    streamed = rows(steps(stream(folder, fields=fields).train_batches(), 7))
    by_index = rows(steps(make(indexed, fields=fields).train_batches(), 7))
    assert streamed.keys() == by_index.keys() == EVERY
    assert all(torch.equal(a, b) for key in EVERY for a, b in zip(streamed[key], by_index[key], strict=True))


@pytest.mark.parametrize(("workers", "crops"), [(0, 1), (0, 3), (2, 1), (2, 3)])
def test_a_run_goes_on_bit_for_bit_from_its_state(folder, workers, crops):
    options = {"num_workers": workers, "crops_per_image": crops, "micro": 4}
    whole = stream(folder, **options)
    batches = whole.train_batches()
    straight = steps(batches, 5)
    state = whole.state_dict(5)
    straight += steps(batches, 9)
    resumed = stream(folder, **options)
    resumed.validate_state(state)
    assert same(steps(resumed.train_batches(5), 9), straight[10:])
    again = resumed.state_dict(14)
    assert again == whole.state_dict(14) and again["reached"] != state["reached"]
    batches.close()


def gone_on(folder: str) -> list[Any]:
    """Whether a rank's batches after a resume are those of the undisturbed run, and the state; of two workers."""
    place = {"rank": ranks.rank(), "world": ranks.world(), "micro": 4, "num_workers": 2}
    whole = stream(folder, **place)
    batches = whole.train_batches()
    steps(batches, 3)
    state = whole.state_dict(3)
    straight = steps(batches, 6)
    batches.close()
    resumed = stream(folder, **place)
    resumed.validate_state(state)
    rest = resumed.train_batches(3)
    found = [same(steps(rest, 6), straight), state, keys(straight)]
    rest.close()
    return found


def test_two_ranks_with_workers_go_on_bit_for_bit(folder):
    (first, state, keys_0), (second, other, keys_1) = processes.run(gone_on, 2, str(folder))
    assert first and second and state == other and state["readers"] == [2, 2] and len(state["reached"]) == 4
    assert keys_0 != keys_1


def test_other_readers_go_on_with_whole_shards_which_is_said_and_no_sample_is_lost(folder, caplog):
    whole = stream(folder, num_workers=2)
    batches = whole.train_batches()
    before = keys(steps(batches, 3))
    state = whole.state_dict(3)
    batches.close()
    other = stream(folder, num_workers=0)
    other.validate_state(state)
    assert "1 ranks with 2 readers each, and 1 with 1 go on" in caplog.text
    rest = keys(steps(other.train_batches(3), 6))
    together = before + rest
    epoch = next(together[:count] for count in range(SAMPLES, len(together)) if set(together[:count]) == EVERY)
    assert len(epoch) - SAMPLES <= 16  # what came twice, of the two shards of 8 that were begun


@pytest.mark.parametrize("readers", [1, 2, 3, 7, 8, 20])
def test_each_shard_is_dealt_once_an_epoch_to_any_number_of_readers(readers):
    line = ShardLine(7, seed=1)
    dealt = [line.at(Dealing().place(turn)) for reader in range(readers) for turn in range(reader, 140, readers)]
    assert sorted(dealt) == [(epoch, shard) for epoch in range(20) for shard in range(7)]


def test_what_was_not_finished_is_dealt_anew():
    reached = [ReadUpTo(3, 1), ReadUpTo(7, 0), ReadUpTo(2, 5)]  # of readers with the turns 0 3 6, 1 4 7 and 2 5 8
    anew = Dealing().anew(reached)
    assert [anew.place(turn) for turn in range(7)] == [2, 3, 5, 6, 7, 8, 9]  # 0, 1 and 4 were finished
    again = anew.anew([ReadUpTo(2, 1), ReadUpTo(5, 0)])
    assert [again.place(turn) for turn in range(5)] == [5, 7, 8, 9, 10]  # of 2 3 5 6 7 8: 2 5 7 and 3 6 8


@pytest.mark.parametrize("dealt", ["samples", "batches"])
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2), (3, 0)])
def test_an_evaluation_sees_the_same_batches_as_with_an_index(indexed, folder, dealt, world, workers):
    for rank in range(world):
        place = {"rank": rank, "world": world, "micro": 1, "num_workers": workers}
        if 8 % world:
            place |= {"world": 4}
        theirs = list(make(indexed, **place).eval_batches(6, dealt=dealt))
        assert same(list(stream(folder, **place).eval_batches(6, dealt=dealt)), theirs)


def test_a_rank_without_samples_has_one_for_company(tmp_path):
    few = bare(write_images(tmp_path / "indexed", 1), tmp_path)
    made = [list(stream(few, rank, 2, 4).eval_batches(4)) for rank in range(2)]
    assert [[batch["key"] for batch in batches] for batches in made] == [[["p000"]], [[]]]
    assert torch.equal(made[0][0]["image"], made[1][0]["image"])


def test_faulty_samples_are_replaced_and_counted(folder, tmp_path, caplog):
    place = bare(folder, tmp_path)
    data = bytearray((place / "x-000002.tar").read_bytes())
    at = data.index(b"IDAT") + 8
    data[at : at + 40] = bytes(40)
    (place / "x-000002.tar").write_bytes(data)
    damaged = stream(place, max_bad_fraction=0.5)
    read = keys(steps(damaged.train_batches(), 12))
    assert len(read) == 96 and EVERY - set(read) == {"p016"}
    assert damaged.sample_errors == {"undecodable": 2} and "p016 in" in caplog.text


@pytest.mark.parametrize(
    ("harm", "kind"), [("cut", "truncated shard"), ("change", "damaged member"), ("gone", "missing shard")]
)
def test_a_shard_that_cannot_be_read_to_its_end_is_counted_and_the_others_go_on(folder, tmp_path, harm, kind):
    place = bare(folder, tmp_path)
    victim = place / "x-000002.tar"
    whole = victim.read_bytes()
    if harm == "gone":
        victim.unlink()
    else:
        victim.write_bytes(whole[:15000] if harm == "cut" else whole[:15000].ljust(len(whole), b"?"))
    names = place / "x-00000{0..6}.tar"
    damaged = stream(names, max_bad_fraction=0.2)
    read = set(keys(steps(damaged.train_batches(), 12)))
    assert EVERY - read <= {f"p{number:03d}" for number in range(16, 24)} and EVERY - read
    assert set(damaged.sample_errors) == {kind}
    again = list(stream(names, max_bad_fraction=0.2).eval_batches(8))
    assert EVERY - set(keys(again)) == EVERY - read
    with pytest.raises(
        TooManySampleErrorsError, match=rf"1 of 7 shards could not be used \(1 {kind}\).*what follows in it"
    ):
        steps(stream(names).train_batches(), 12)


def test_when_no_shard_can_be_read_the_run_ends(folder, tmp_path):
    place = bare(folder, tmp_path)
    late = stream(place, max_bad_fraction=1.0)
    for tar in place.glob("*.tar"):
        tar.write_bytes(b"")
    with pytest.raises(TooManySampleErrorsError, match=r"7 shards in a row gave no sample; the last: .* is empty"):
        next(late.train_batches())


@pytest.mark.parametrize("fault", ["slow", "drop", "error", "hang", "cut", "short", "ignore", "change", "lie"])
def test_a_server_that_fails_for_a_moment_is_asked_again(folder, tmp_path, monkeypatch, fault):
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    monkeypatch.setattr(requests, "PAUSES", (0.0, 0.01, 0.02))
    remote = {"cache": str(tmp_path / "cache"), "timeout": 0.2}
    with serving(folder) as server:
        far = stream(f"{server.url}/x-{{000000..000006}}.tar", remote=remote)
        batches = far.train_batches()
        read = steps(batches, 1)
        server.misbehave(fault, 2)
        read += steps(batches, 8)
    assert same(read, steps(stream(folder).train_batches(), 9)) and not far.sample_errors
    assert far.repeated_requests > 0 or fault in ("slow", "drop", "lie", "ignore")


def test_a_server_that_lies_on_gives_no_wrong_sample(folder, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    monkeypatch.setattr(requests, "PAUSES", (0.0, 0.0, 0.0))
    with serving(folder) as server:
        far = stream(f"{server.url}/x-{{000000..000006}}.tar", remote={"timeout": 0.2})
        server.misbehave("change")
        with pytest.raises(
            TooManySampleErrorsError,
            match=r"7 shards in a row gave no sample; the last: damaged member: .*checksum is wrong$",
        ):
            steps(far.train_batches(), 9)


def test_commands_are_read_too(folder):
    piped = stream(f"pipe:cat {folder}/x-{{000000..000006}}.tar", num_workers=1)
    assert same(steps(piped.train_batches(), 8), steps(stream(folder, num_workers=1).train_batches(), 8))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shuffle_window": 8}, "shuffle_window .give shuffle_buffer. needs them"),
        ({"lanes": True}, "lanes needs them"),
        ({"max_repeats": 2}, "max_repeats needs them"),
        ({"crop": CodeCropConfig()}, "a crop of codes needs them"),
        ({"shards": (), "mixture": (SourceConfig(("a",)),)}, "mixture needs them"),
    ],
)
def test_what_needs_an_index_is_refused(asked, said):
    with pytest.raises(ValueError, match=rf"fetch: stream reads shards without indexes, and {said}; omit that"):
        DataConfig(**{"shards": ("a",), "remote": RemoteConfig(fetch="stream")} | asked)


def test_what_would_be_wrong_with_every_sample_is_refused_at_the_start(folder):
    with pytest.raises(ValueError, match=r"field 'depth' needs members named \.depth\.png or"):
        stream(folder, fields=("image", "depth"))
    with pytest.raises(ValueError, match="fetch: stream can go on at step 0, whose state it was given, and not at 5"):
        stream(folder).train_batches(5)
    with pytest.raises(ValueError, match="open such a config with open_stream"):
        make(folder, remote=RemoteConfig(fetch="stream"))


def test_a_state_of_another_order_is_refused(indexed, folder):
    state = stream(folder).state_dict(4)
    with pytest.raises(ValueError, match="shuffle_buffer was 5 and is 6"):
        stream(folder, shuffle_buffer=6).validate_state(state)
    with pytest.raises(ValueError, match="fetch was None and is 'stream'"):
        stream(folder).validate_state(make(indexed).state_dict(4))
    with pytest.raises(ValueError, match="window was None"):
        make(indexed).validate_state(state)
