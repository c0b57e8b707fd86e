"""The stream of batches: the same samples for every number of ranks, workers and restarts."""

import pickle
import random
import resource
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.shards import decoded, write_images
from fixtures.streams import CROP, global_batches, make, same

from smalti.trainer.data.collate import Batch
from smalti.trainer.data.config import usual_workers
from smalti.trainer.data.crops import CropConfig
from smalti.trainer.data.stream import DataConfig, SourceConfig
from smalti.trainer.data.workers.datasets import BatchRequest, TrainDataset
from smalti.trainer.distributed import child_processes
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import write_shard

SAMPLES = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("shards"), SAMPLES)


@pytest.fixture(scope="module")
def reference(folder) -> list[Batch]:
    return global_batches(folder, 9)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 2), (2, 4), (2, 2), (4, 2), (4, 1)])
def test_ranks_workers_and_accumulation_change_nothing(folder, reference, world, micro, workers):
    steps = 9 if workers == 0 else 4
    assert same(global_batches(folder, steps, world, micro, num_workers=workers), reference[:steps])


def test_starting_at_any_step_equals_the_uninterrupted_stream(folder, reference):
    for start in range(9):
        assert same(global_batches(folder, 9 - start, start=start), reference[start:])


def test_the_world_may_change_in_mid_epoch(folder, reference):
    pieces = global_batches(folder, 2, world=2, micro=2)
    pieces += global_batches(folder, 3, world=4, micro=2, start=2, num_workers=1)
    pieces += global_batches(folder, 4, world=1, micro=4, start=5)
    assert same(pieces, reference)


def test_state_taken_while_workers_read_ahead_resumes_elsewhere(folder, reference):
    ahead = make(folder, num_workers=2, prefetch=4)
    stream = ahead.train_batches()
    for _ in range(3):
        next(stream)
    state = ahead.state_dict(3)
    resumed = make(folder, rank=1, world=2, micro=4)
    resumed.validate_state(state)
    assert state["position"] == 24
    assert next(resumed.train_batches(3))[0]["key"] == reference[3]["key"][4:]


@pytest.mark.parametrize("window", [0, 2])
def test_each_epoch_holds_every_sample_once_and_the_next_follows_without_a_gap(folder, window):
    keys = [
        key
        for batch in global_batches(folder, 25, fields=("segmentation",), shuffle_window=window)
        for key in batch["key"]
    ]
    epochs = [keys[start : start + SAMPLES] for start in range(0, 200, SAMPLES)]
    every = {f"p{number:03d}" for number in range(SAMPLES)}
    assert all(len(epoch) == SAMPLES and set(epoch) == every for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_sample_is_what_its_box_says(folder, reference):
    shards = ShardSet.open([str(folder)])
    places = {shards.key(s, n): (s, n) for s, count in enumerate(shards.counts) for n in range(count)}
    flips = 0
    for batch in reference[:4]:
        for row, key in enumerate(batch["key"]):
            whole = decoded(shards.read(*places[key], "png"))
            left, top, right, bottom = batch["box"][row].int().tolist()
            expected = whole[top:bottom, left:right]
            if batch["flip"][row]:
                expected = expected[:, ::-1]
                flips += 1
            assert np.array_equal(batch["image"][row].permute(1, 2, 0), expected)
            assert np.array_equal(batch["segmentation"][row], expected[..., 1])
            assert batch["source_size"][row].tolist() == list(whole.shape[:2])
    assert 8 <= flips <= 24  # of 32


def test_fields_have_the_types_that_models_expect(folder):
    batch = next(make(folder, fields=("image", "segmentation", "cls")).train_batches())[0]
    kinds = {name: (value.dtype, tuple(value.shape)) for name, value in batch.items() if name != "key"}
    assert kinds == {
        "image": (torch.uint8, (8, 3, 16, 16)),
        "segmentation": (torch.uint8, (8, 16, 16)),
        "cls": (torch.int64, (8,)),
        "box": (torch.float32, (8, 4)),
        "source_size": (torch.float32, (8, 2)),
        "flip": (torch.bool, (8,)),
    }
    assert batch["cls"].tolist() == [int(key[1:]) for key in batch["key"]]


def test_crops_differ_between_epochs_and_seeds(folder):
    boxes = {}
    for number, batch in enumerate(global_batches(folder, 24)):
        for key, box in zip(batch["key"], batch["box"], strict=True):
            boxes.setdefault(key, []).append((number, tuple(box.tolist())))
    assert sum(len({box for _, box in seen}) > 1 for seen in boxes.values()) > 45
    other = global_batches(folder, 1, seed=4)[0]
    assert other["key"] != global_batches(folder, 1)[0]["key"]


@pytest.mark.parametrize("workers", [0, 2])
def test_several_crops_of_an_image_go_to_consecutive_steps(folder, workers):
    batches = global_batches(folder, 9, world=2, micro=2, crops_per_image=3, num_workers=workers)
    for start in (0, 3, 6):
        block = batches[start : start + 3]
        assert block[0]["key"] == block[1]["key"] == block[2]["key"]
        assert len(set(block[0]["key"])) == 8
        boxes = torch.stack([batch["box"] for batch in block])
        assert (boxes[0] != boxes[1]).any() and (boxes[1] != boxes[2]).any()
    assert batches[0]["key"] != batches[3]["key"]
    for start in (1, 2, 3, 5):
        assert same(global_batches(folder, 4, crops_per_image=3, start=start), batches[start : start + 4])


def test_a_mixture_has_its_shares_on_any_topology(folder, tmp_path):
    other = write_images(tmp_path, 20, side=30, prefix="o")
    mixture = (SourceConfig((str(folder),), 3.0), SourceConfig((str(other),), 1.0))
    options = {"shards": (), "mixture": mixture, "fields": ("image",)}
    batches = global_batches(folder, 128, **options)
    from_other = sum(int((batch["source_size"][:, 0] == 30).sum()) for batch in batches)
    assert from_other == 256  # of 1024
    assert same(global_batches(folder, 6, world=2, micro=4, start=40, num_workers=1, **options), batches[40:46])


def test_once_gives_every_sample_once_over_all_ranks_in_order(folder):
    batches = [list(make(folder, rank, 2, 4).eval_batches(6)) for rank in range(2)]
    assert [len(batch["key"]) for batch in batches[0]] == [6, 6, 6, 6, 1]
    by_rank = [[key for batch in rank for key in batch["key"]] for rank in batches]
    assert by_rank == [[f"p{number:03d}" for number in range(rank, SAMPLES, 2)] for rank in range(2)]
    first = batches[0][0]
    assert first["box"][0].tolist() == [4, 4, 20, 20] and not first["flip"].any()  # the middle of 24 x 24


@pytest.mark.parametrize("workers", [0, 2])
def test_once_in_a_grid_covers_every_pixel(folder, workers):
    seen: dict[str, np.ndarray] = {}
    for batch in make(folder, num_workers=workers).eval_batches(7, "grid"):
        for key, box, size in zip(batch["key"], batch["box"].int(), batch["source_size"].int(), strict=True):
            whole = seen.setdefault(key, np.zeros(size.tolist(), int))
            whole[box[1] : box[3], box[0] : box[2]] += 1
    assert len(seen) == SAMPLES and min(whole.min() for whole in seen.values()) == 1


def test_once_with_a_number_gives_the_crops_of_the_first_epoch(folder):
    online = {}
    for batch in global_batches(folder, 7):
        for row, key in enumerate(batch["key"]):
            online.setdefault(key, (batch["box"][row].tolist(), batch["image"][row]))
    cached = {}
    counted = Counter()
    for batch in make(folder).eval_batches(8, 2):
        for row, key in enumerate(batch["key"]):
            cached.setdefault(key, (batch["box"][row].tolist(), batch["image"][row]))
            counted[key] += 1
    assert set(counted.values()) == {2} and len(counted) == SAMPLES
    assert all(cached[key][0] == box and torch.equal(cached[key][1], pixels) for key, (box, pixels) in online.items())


def test_the_global_generators_are_left_alone(folder):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global one is what is watched)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    stream = make(folder, num_workers=1).train_batches()
    next(stream)
    stream.close()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_a_changed_data_set_is_named_on_resume(folder, tmp_path):
    state = make(folder).state_dict(5)
    make(folder, rank=1, world=2, micro=2, num_workers=1).validate_state(state)
    with pytest.raises(ValueError, match="seed was 3 and is 4"):
        make(folder, seed=4).validate_state(state)
    other = write_images(tmp_path, 51)
    with pytest.raises(ValueError, match=r"samples was \[50\] and is \[51\]; fingerprint was '.*' and is '"):
        make(other).validate_state(state)
    with pytest.raises(ValueError, match="window was 0 and is 2"):
        make(folder, shuffle_window=2).validate_state(state)


def test_fewer_samples_than_a_global_batch_is_an_error_with_both_numbers(tmp_path):
    few = write_images(tmp_path, 5)
    with pytest.raises(ValueError, match=r"one global batch has 8 samples but the data set only 5;.*repeats"):
        make(few, max_repeats=1).train_batches()
    assert len(next(make(few, max_repeats=2).train_batches())[0]["key"]) == 8
    assert sum(len(batch["key"]) for batch in make(few).eval_batches(8)) == 5


@pytest.mark.parametrize("photos", [3, 7, 20])
def test_a_tiny_set_fills_its_batches_and_rank_0_says_how(tmp_path, caplog, photos):
    few = make(write_images(tmp_path, photos))
    assert [len(batches[0]["key"]) for batches in islice(few.train_batches(), 5)] == [8] * 5
    chosen = {3: "max_repeats = 3 was chosen", 7: "repeats = 2 was chosen", 20: None}[photos]
    assert len(caplog.messages) == (chosen is not None)
    assert chosen is None or chosen in caplog.messages[0]


def test_a_rank_without_a_validation_sample_gets_one_that_does_not_count(tmp_path):
    folder = write_images(tmp_path, 1)
    made = [list(make(folder, rank=rank, world=2, micro=4).eval_batches(4)) for rank in range(2)]
    assert [[len(batch["key"]) for batch in batches] for batches in made] == [[1], [0]]
    assert torch.equal(made[0][0]["image"], made[1][0]["image"])


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_dealt_batches_are_the_same_on_any_number_of_ranks(folder, world):
    whole = list(make(folder).eval_batches(8, dealt="batches"))
    assert [len(batch["key"]) for batch in whole] == [8] * 6 + [2]
    shared = [list(make(folder, rank, world, 8 // world).eval_batches(8, dealt="batches")) for rank in range(world)]
    for rank, batches in enumerate(shared):
        assert same(batches, whole[rank::world])


def test_dealt_batches_of_crops_stay_within_the_samples_of_a_batch(folder):
    batches = list(make(folder).eval_batches(8, "grid", dealt="batches"))
    keys = [set(batch["key"]) for batch in batches]
    assert all(len(batch["key"]) <= 8 for batch in batches) and len(batches) > 7
    assert set().union(*keys[:4]) == {f"p{number:03d}" for number in range(8)}


def test_what_cannot_work_is_refused_before_training(folder):
    with pytest.raises(ValueError, match=r"global_batch = 8 must be a multiple of micro_batch x world = 3 x 1 = 3"):
        make(folder, micro=3)
    with pytest.raises(ValueError, match=r"0 <= rank < world.*rank=2, world=2"):
        make(folder, rank=2, world=2)
    with pytest.raises(
        ValueError, match=r"field 'depth' needs members named \.depth\.png or .*has only .*\.segmentation\.png"
    ):
        make(folder, fields=("depth",))
    with pytest.raises(ValueError, match=r"unknown fields \['images'\]; known are .*'image'"):
        make(folder, fields=("images",))
    with pytest.raises(ValueError, match=r"50 of 50 images have a side below 27 pixels.*pack --minimum-side 27"):
        make(folder, crop=CropConfig(size=40))
    with pytest.raises(ValueError, match=r"fields \['codes'\] need a crop of kind 'codes'"):
        make(folder, fields=("codes",))
    with pytest.raises(ValueError, match="either shards or mixture"):
        DataConfig()
    with pytest.raises(ValueError, match="unknown fields"):
        DataConfig(shards=("a",), extensions={"maps": "seg.png"})


def test_shards_without_a_sample_are_refused(tmp_path):
    write_shard(tmp_path / "e.tar", [], {})
    with pytest.raises(ValueError, match=r"no sample is in .*e\.tar"):
        make(tmp_path)
    with pytest.raises(ValueError, match="weight must be positive, got 0"):
        SourceConfig(("a",), 0)


def test_whole_images_of_different_sizes_need_batches_of_one(folder):
    with pytest.raises(ValueError, match="'image' has different shapes in one batch"):
        next(make(folder, crop=None).train_batches())
    widths = [batch["image"].shape[-1] for batch in make(folder, crop=None).eval_batches(1)]
    assert widths[:4] == [24, 25, 26, 24]


def test_workers_may_be_started_anew_and_need_no_trainer(folder):
    request = BatchRequest((3, 4), (0,))
    stream = make(folder)
    source = TrainDataset(stream._readers, stream._schedule, CROP)
    again = pickle.loads(pickle.dumps(source))  # as where processes are spawned
    assert same(again[request].batches, source[request].batches)
    imported = "import sys, smalti.trainer.data.stream; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imported]).returncode == 0


def test_without_semaphores_a_stream_is_refused_before_its_first_batch(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))  # a semaphore has 32 bytes
    try:
        with pytest.raises(ValueError, match=r"2 worker processes need 14 semaphores in /dev/shm"):
            make(folder, num_workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("crops_each", [1, 2])
def test_without_room_in_shared_memory_batches_come_through_pipes_and_it_is_said_once(folder, caplog, crops_each):
    options = {"crops_per_image": crops_each}
    expected = global_batches(folder, 4, **options)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # shared memory is files; a semaphore fits
    try:
        found = global_batches(folder, 4, num_workers=2, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(found, expected)
    assert [record.getMessage().partition(" of")[0] for record in caplog.records] == [
        "rank 0: /dev/shm has no room for batches"
    ]


@pytest.mark.parametrize(
    ("cores", "quota", "ranks", "codes", "workers"),
    [
        (64, "max 100000", 8, False, 7),
        (64, "max 100000", 1, False, 8),
        (64, "1600000 100000", 4, False, 3),
        (64, "50000 100000", 1, False, 0),
        (16, None, 4, True, 2),
        (2, None, 2, False, 0),
    ],
)
def test_workers_are_as_many_as_a_rank_has_cores_to_spare(monkeypatch, tmp_path, cores, quota, ranks, codes, workers):
    monkeypatch.setattr(child_processes.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(child_processes, "_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    for name, value in (("RANK", 0), ("WORLD_SIZE", ranks), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", ranks)):
        monkeypatch.setenv(name, str(value))
    assert usual_workers(codes) == 0  # the cores train
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert usual_workers(codes) == workers
