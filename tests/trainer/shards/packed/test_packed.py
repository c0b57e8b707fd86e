"""Shards of codes whose samples are rows of arrays."""

import json
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
import webdataset
from fixtures.priors import condition_members, grids, npy

from smalti.launch import index as index_command
from smalti.trainer.data.collate import collate
from smalti.trainer.data.crops import CodeCropConfig
from smalti.trainer.data.stream import DataConfig, SourceConfig, Stream
from smalti.trainer.data.workers.datasets import TrainDataset
from smalti.trainer.images.known_values import only
from smalti.trainer.shards.errors import TooManySampleErrorsError
from smalti.trainer.shards.index import SampleLocation, ShardIndex
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.scan import scan
from smalti.trainer.shards.writer import Sample, ShardWriter, write_shard

FIELDS = ("codes", "segmentation_codes", "depth_codes", "cls", "text", "object_classes", "object_boxes")


def members(number: int, size: tuple[int, int] = (6, 9)) -> dict[str, bytes]:
    """What every condition reads, beside a grid that is a mirrored part of its image."""
    made = condition_members(number, size)
    del made["low.png"]
    place = {"box": [0.5, 2.0 + number, 96.5, 146.0 + number], "source_size": [150.0, 200.0], "flip": number % 2 == 0}
    return made | {"codes.npy": npy(grids(1, size, seed=number)[0]), "json": json.dumps(place).encode()}


def write_old(folder: Path, count: int = 23, per_shard: int = 6) -> Path:
    with ShardWriter(folder, "c", per_shard, {"factor": 16, "tokenizer": "abc"}) as writer:
        for number in range(count):
            writer.write(f"p{number}", members(number))
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    return write_old(tmp_path_factory.mktemp("codes") / "old")


@pytest.fixture(scope="module")
def new(old) -> Path:
    """The same samples by the command that packs them anew."""
    assert index_command.main([str(old), "--packed", str(old.parent / "new")]) == 0
    return old.parent / "new"


def make(folder: Path, window=(4, 4), fields=FIELDS, micro: int = 8, **options) -> Stream:
    config = DataConfig(shards=(str(folder),), crop=CodeCropConfig(window=window), **options)
    return Stream(config, fields, global_batch=8, micro_batch=micro, seed=3)


def steps(stream: Stream, start: int = 0, count: int = 7):
    return [step[0] for _, step in zip(range(count), stream.train_batches(start), strict=False)]


def assert_same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys() and left["key"] == right["key"]
    for field in left.keys() - {"key"}:
        assert left[field].dtype == right[field].dtype and torch.equal(left[field], right[field]), field


@pytest.mark.parametrize(
    ("window", "options"),
    [
        ((4, 4), {}),
        ((6, 9), {}),
        ((0, 0), {"shuffle_window": 2}),
        ((4, 9), {"lanes": True}),
        ((4, 4), {"num_workers": 1}),
    ],
)
def test_batches_are_those_of_a_file_each(old, new, window, options, monkeypatch):
    one_by_one = steps(make(old, window, **options))
    monkeypatch.setattr(TrainDataset, "_rows", lambda *_: pytest.fail("a sample was read alone"))
    for packed, files in zip(steps(make(new, window, **options)), one_by_one, strict=True):
        assert_same(packed, files)


def test_a_batch_made_at_once_is_that_of_samples_read_alone(new, monkeypatch):
    at_once = steps(make(new))
    monkeypatch.setattr(TrainDataset, "_at_once", lambda *_: None)
    for left, right in zip(at_once, steps(make(new)), strict=True):
        assert_same(left, right)


def test_sources_of_a_mixture_keep_their_places_in_a_batch(old, new, tmp_path):
    more, packed = write_old(tmp_path / "more", 11), tmp_path / "packed"
    assert index_command.main([str(more), "--packed", str(packed)]) == 0
    left, right = (
        DataConfig(
            mixture=tuple(SourceConfig((str(folder),)) for folder in folders), crop=CodeCropConfig(window=(4, 4))
        )
        for folders in ((new, packed), (old, more))
    )
    made = (steps(Stream(config, FIELDS, global_batch=8, micro_batch=8)) for config in (left, right))
    for arrays, files in zip(*made, strict=True):
        assert_same(arrays, files)


def test_evaluation_sees_the_same_windows(old, new):
    packed, files = (list(make(folder).eval_batches(5, "grid")) for folder in (new, old))
    for left, right in zip(packed, files, strict=True):
        assert_same(left, right)


def test_every_file_can_still_be_had_to_the_byte(old, new):
    packed, files = ShardSet.open([str(new)]), ShardSet.open([str(old)])
    assert packed.provenance == files.provenance and packed.counts == files.counts == (6, 6, 6, 5)
    for shard, count in enumerate(files.counts):
        for sample in range(count):
            assert packed.key(shard, sample) == files.key(shard, sample)
            for kind in files.index(shard).extensions:
                assert packed.read(shard, sample, kind) == files.read(shard, sample, kind)


def test_a_run_goes_on_from_files_to_arrays(old, new):
    stored = make(old).state_dict(3)
    resumed = make(new)
    resumed.validate_state(stored)
    for left, right in zip(steps(resumed, 3), steps(make(old), 3), strict=True):
        assert_same(left, right)


def test_webdataset_opens_the_arrays(new):
    (sample,) = webdataset.WebDataset(str(new / "c-000000.tar"), shardshuffle=False, empty_check=False).decode()
    assert np.array_equal(sample["codes.npy"], [grids(1, (6, 9), seed=number)[0] for number in range(6)])
    assert sample["cls.npy"].tolist() == list(range(6)) and sample["packed.json"]["keys"] == [f"p{n}" for n in range(6)]


def test_a_lost_index_is_made_again_of_the_tar(new):
    path = new / "c-000001.tar"
    made, stored = ShardIndex(scan(path).to_bytes(), "made"), ShardIndex.read(path.with_name(path.name + ".idx"))
    assert (made.digest, made.order, made.extensions) == (stored.digest, stored.order, stored.extensions)
    assert made.packed == stored.packed


@pytest.mark.parametrize(
    "odd",
    [
        {"codes.npy": npy(np.zeros((5, 9), np.uint16))},
        {"low.png": b"png"},
        {"json": b'{"box": [0, 0, 1, 1], "source_size": [1, 1], "flip": false, "photographer": "A"}'},
        {"json": b'{"box": [0.1, 0, 1, 1], "source_size": [1, 1], "flip": false}'},
    ],
    ids=["another shape", "another field", "more words", "a number that float32 rounds"],
)
def test_samples_that_fit_no_columns_keep_their_files(tmp_path, odd):
    samples = [Sample("a", members(0)), Sample("b", members(1) | odd)]
    write_shard(tmp_path / "x.tar", samples, {}, packed=True)
    shards = ShardSet.open([str(tmp_path)])
    assert not shards.index(0).packed
    assert all(shards.read(0, 1, kind) == data for kind, data in (members(1) | odd).items())


def damaged(new: Path, folder: Path, name: str, row: int) -> Path:
    """The packed shards, with one byte of a column turned."""
    folder.mkdir()
    for path in new.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    column = ShardIndex.read(folder / "c-000000.tar.idx").packed[name]
    data = bytearray((folder / "c-000000.tar").read_bytes())
    data[column.offset + row * column.row_bytes] ^= 1
    (folder / "c-000000.tar").write_bytes(data)
    return folder


@pytest.mark.parametrize(("name", "bad"), [("codes", 1), ("cls", 6), ("codes.crc", 6)])
def test_a_damaged_row_is_one_bad_sample_and_a_damaged_small_column_all_of_its_shard(new, tmp_path, name, bad):
    stream = make(damaged(new, tmp_path / "x", name, 2), max_bad_fraction=1.0)
    keys = [key for batch in stream.eval_batches(4, "center") for key in batch["key"]]
    assert stream.sample_errors == {"damaged member": bad} and len(keys) == 23 - bad
    if bad == 1:
        assert "p2" not in keys
    trained = make(damaged(new, tmp_path / "y", name, 2), max_bad_fraction=1.0)
    seen = [key for batch in steps(trained, count=6) for key in batch["key"]]
    assert trained.sample_errors["damaged member"] >= bad and len(seen) == 48 and ("p2" in seen) == (bad == 0)


def test_a_code_that_the_model_does_not_know_is_a_fault_of_its_sample(new, tmp_path):
    config = DataConfig(shards=(str(new),), crop=CodeCropConfig(window=(6, 9)), max_bad_fraction=0.1)
    with pytest.raises((TooManySampleErrorsError, ValueError), match=r"out of range|does not know"):
        steps(Stream(config, ("codes",), global_batch=8, micro_batch=8, checks={"codes": only(range(8))}))


def test_packing_stops_at_any_moment_and_goes_on(tmp_path):
    old = write_old(tmp_path / "old", 400, 10)
    job = processes.command("smalti.launch.index", [old, "--packed", tmp_path / "new", "--processes", "1"])
    while processes.alive(job.pids[0]) and len(list((tmp_path / "new").glob("*.tar"))) < 3:
        time.sleep(0.005)
    job.signal(signal.SIGKILL, rank=0)
    job.wait()
    assert index_command.main([str(old), "--packed", str(tmp_path / "new")]) == 0
    assert index_command.main([str(old), "--packed", str(tmp_path / "again"), "--processes", "1"]) == 0
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir()) and len(names) == 81
    assert all((tmp_path / "new" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_what_cannot_be_packed_anew_is_refused(old, new, tmp_path, capsys):
    assert index_command.main([str(old), "--packed", str(old)]) == 2
    assert "holds the shards themselves" in capsys.readouterr().err
    write_old(tmp_path / "others", 5)
    assert index_command.main([str(tmp_path / "others"), "--packed", str(new)]) == 2
    assert "belongs to none of these shards" in capsys.readouterr().err


def test_a_packed_shard_takes_a_fraction_of_the_bytes(tmp_path):
    with ShardWriter(tmp_path / "old", "c", 256, {"factor": 16}) as writer:
        for number in range(256):
            writer.write(f"n{number:08d}", {"codes.npy": npy(grids(1, (16, 16), seed=number)[0]), "cls": b"7"})
    assert index_command.main([str(tmp_path / "old"), "--packed", str(tmp_path / "new")]) == 0
    before, after = ((tmp_path / name / "c-000000.tar").stat().st_size / 256 for name in ("old", "new"))
    assert before > 2500 and after < 560  # 512 of codes
    index = (tmp_path / "new" / "c-000000.tar.idx").stat().st_size
    assert index < 256 * 11 + 1500


def test_columns_that_an_index_makes_up_are_refused(new):
    data = (new / "c-000000.tar.idx").read_bytes()
    for old_text, new_text in (
        (b'["codes", "<u2"', b'["codes", "<O2"'),
        (b"[6, 9]", b"[-6, 9]"),
        (b"[6, 9]", b"[6e9, 9]"),
    ):
        mark, line, body = data.split(b"\n", 2)
        line = line.replace(old_text, new_text)
        forged = mark[:-8] + b"%08x" % zlib.crc32(line + b"\n") + b"\n" + line + b"\n" + body
        with pytest.raises(ValueError, match="is damaged"):
            ShardIndex(forged, "x")


def test_the_rows_that_workers_collate_are_the_same_as_those_of_a_batch(new):
    reader = make(new)._readers[0]
    places = [SampleLocation(0, 1), SampleLocation(2, 3)]
    crops = [CodeCropConfig(window=(4, 4)).draw(6, 9, key) for key in (5, 9)]
    alone = collate(
        [reader.read(place, lambda *_, crop=crop: [crop])[0] for place, crop in zip(places, crops, strict=True)]
    )
    assert_same(reader.read_batch(places, lambda number, *_: crops[number]), alone)
