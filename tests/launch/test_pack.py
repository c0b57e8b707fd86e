"""The command that packs images into shards."""

import io
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import webdataset
from fixtures.shards import decoded, encoded, photo
from PIL import Image, ImageOps

from smalti.launch import index, pack
from smalti.trainer.data.crops import CropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.images import seekable_jpeg
from smalti.trainer.shards.reader import ShardSet


def write_photos(folder: Path, count: int, height: int = 40, width: int = 60) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"p{number:03d}.jpg").write_bytes(encoded(photo(height, width, number)))
    return folder


def pack_it(*arguments: object) -> int:
    return pack.main([str(argument) for argument in (*arguments, "--processes", 1)])


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every sample of a folder of shards by its key, through webdataset."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = [sample for url in urls for sample in webdataset.WebDataset(url, shardshuffle=False, empty_check=False)]
    found = {sample["__key__"]: {name: data for name, data in sample.items() if name[:2] != "__"} for sample in samples}
    assert len(found) == len(samples)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read_images(folder: Path, size: int, fields=("image",)) -> Stream:
    crop = CropConfig(size=size, scale=(1, 1))
    return Stream(DataConfig(shards=(str(folder),), crop=crop, max_repeats=99), fields, global_batch=4, micro_batch=4)


def test_every_file_is_packed_byte_for_byte(tmp_path, capsys):
    source = write_photos(tmp_path / "in" / "a", 9)
    assert pack_it(tmp_path / "in", tmp_path / "out", "--shard-count", 4) == 0
    assert capsys.readouterr().out == "9 samples in 3 shards, 0 left out\n"
    packed = contents(tmp_path / "out")
    assert packed == {f"a/{path.stem}": {"jpg": path.read_bytes()} for path in source.iterdir()}
    assert ShardSet.open([str(tmp_path / "out")]).counts == (4, 4, 1)


def test_shards_close_at_their_size(tmp_path):
    write_photos(tmp_path / "in", 30, 200, 300)
    assert pack_it(tmp_path / "in", tmp_path / "out", "--shard-size", 0, "--shard-count", 30) == 0
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1 and size < 2_000_000
    assert pack_it(tmp_path / "in", tmp_path / "small", "--shard-size", 1) == 0
    assert all(path.stat().st_size < 1_100_000 for path in (tmp_path / "small").glob("*.tar"))


def test_several_processes_write_the_same_bytes(tmp_path):
    write_photos(tmp_path / "in", 12)
    for count in (1, 2):
        arguments = [tmp_path / "in", tmp_path / str(count), "--shard-count", 3, "--processes", count]
        assert pack.main([str(argument) for argument in arguments]) == 0
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_packing_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path):
    source = write_photos(tmp_path / "in", 1, 600, 900)
    for number in range(1, 60):
        (source / f"p{number:03d}.jpg").write_bytes((source / "p000.jpg").read_bytes())
    (source / "p011.jpg").write_bytes(b"broken")

    def started(name: str) -> processes.Job:
        options = ["--shard-count", "2", "--processes", "2"]
        return processes.command("smalti.launch.pack", [source, tmp_path / name, *options])

    draws = random.Random(0)
    kills = 0
    for shards in (0, 1, 4, 8, 14):
        job = started("killed")
        while processes.alive(job.pids[0]) and len(list((tmp_path / "killed").glob("*.idx"))) < shards:
            time.sleep(0.002)
        time.sleep(draws.uniform(0, 0.02))
        job.signal(signal.SIGKILL, rank=0)
        kills += job.wait().codes == [-signal.SIGKILL]
    assert kills >= 4
    assert [job.wait().codes for job in (started("killed"), started("whole"))] == [[0], [0]]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(contents(tmp_path / "killed")) == 59


def test_unreadable_images_are_named_counted_and_left_out(tmp_path, capsys):
    source = write_photos(tmp_path / "in", 5)
    whole = (source / "p001.jpg").read_bytes()
    (source / "p001.jpg").write_bytes(whole[:-200])
    (source / "p002.jpg").write_bytes(b"")
    (source / "p003.jpg").write_bytes(encoded(photo(8, 60)))
    assert pack_it(source, tmp_path / "out", "--minimum-side", 16) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["samples"] == 2
    reasons = {left["key"]: left["reason"] for left in report["skipped"]}
    assert set(reasons) == {"p001", "p002", "p003"}
    assert "truncated" in reasons["p001"] and reasons["p002"] == "is not an image"
    assert reasons["p003"] == "its sides of 60 x 8 must be at least 16"
    said = capsys.readouterr()
    assert "2 samples in 1 shards, 3 left out" in said.out and "p002.jpg: is not an image" in said.err
    assert set(contents(tmp_path / "out")) == {"p000", "p004"}


def test_nothing_usable_is_an_error_that_says_why(tmp_path, capsys):
    assert pack_it(write_photos(tmp_path / "in", 2), tmp_path / "out", "--minimum-side", 100) == 2
    assert "no sample for" in (said := capsys.readouterr().err) and "60 x 40 must be at least 100" in said
    assert pack_it(tmp_path / "in", tmp_path / "out", "--minimum-side", 10) == 0  # nothing is left in the way
    (tmp_path / "empty").mkdir()
    assert pack_it(tmp_path / "empty", tmp_path / "out2") == 2
    assert "holds no image" in capsys.readouterr().err
    assert pack_it(tmp_path / "nowhere", tmp_path / "out3") == 2


def test_some_are_for_validation_the_same_ones_each_time_and_never_broken_ones(tmp_path):
    source = write_photos(tmp_path / "in", 20)
    pack_it(source, tmp_path / "first", "--val", 5)
    chosen = set(contents(tmp_path / "first" / "val"))
    assert len(chosen) == 5 and len(contents(tmp_path / "first" / "train")) == 15
    assert not chosen & set(contents(tmp_path / "first" / "train"))
    victim = min(chosen)
    (source / f"{victim}.jpg").write_bytes(b"broken")
    pack_it(source, tmp_path / "second", "--val", 5)
    again = set(contents(tmp_path / "second" / "val"))
    assert len(again) == 5 and chosen - again == {victim}
    report = json.loads((tmp_path / "second" / "report.json").read_text())
    assert (report["samples"], report["val"], len(report["skipped"])) == (14, 5, 1)


def test_holding_out_all_is_an_error(tmp_path, capsys):
    assert pack_it(write_photos(tmp_path / "in", 3), tmp_path / "out", "--val", 3) == 2
    assert "val = 3 leaves nothing to train on: only 3 of 3 samples" in capsys.readouterr().err


def test_shards_of_another_packing_are_not_mixed_in(tmp_path, capsys):
    source = write_photos(tmp_path / "in", 4)
    assert pack_it(source, tmp_path / "out", "--shard-count", 2) == 0
    assert pack_it(source, tmp_path / "out", "--shard-count", 2) == 0
    (source / "p000.jpg").write_bytes(encoded(photo(50, 50)))
    assert pack_it(source, tmp_path / "out", "--shard-count", 2) == 2
    assert "is of another packing" in capsys.readouterr().err


def test_maps_travel_with_their_images(tmp_path):
    write_photos(tmp_path / "in" / "images", 3, 30, 30)
    (tmp_path / "in" / "maps").mkdir()
    for number in range(3):
        labels = np.full((30, 30) if number < 2 else (30, 15), number, np.uint8)
        (tmp_path / "in" / "maps" / f"p{number:03d}.png").write_bytes(encoded(labels, "PNG"))
    assert pack_it(tmp_path / "in", tmp_path / "out") == 0
    packed = contents(tmp_path / "out")
    assert set(packed) == {"p000", "p001"} and set(packed["p000"]) == {"jpg", "segmentation.png"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    reason = report["skipped"][0]["reason"]
    assert reason == "its segmentation of 15 x 30 has other proportions than its image of 30 x 30"


def test_labels_are_packed_with_the_names_of_the_classes(tmp_path):
    write_photos(tmp_path / "in" / "cat", 1)
    write_photos(tmp_path / "in" / "ant", 2)
    assert pack_it(tmp_path / "in", tmp_path / "out", "--labels", "folders") == 0
    assert {key: sample["cls"] for key, sample in contents(tmp_path / "out").items()} == {
        "ant/p000": b"0",
        "ant/p001": b"0",
        "cat/p000": b"1",
    }
    assert ShardSet.open([str(tmp_path / "out")]).provenance["classes"] == ["ant", "cat"]


def test_formats_that_webdataset_does_not_know_become_png(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = photo(20, 30)
    for name, kind in (("a.bmp", "BMP"), ("b.tif", "TIFF"), ("c.webp", "WEBP")):
        options = {"lossless": True} if kind == "WEBP" else {}
        (tmp_path / "in" / name).write_bytes(encoded(pixels, kind, **options))
    assert pack_it(tmp_path / "in", tmp_path / "out") == 0
    packed = contents(tmp_path / "out")
    assert {key: list(sample) for key, sample in packed.items()} == {"a": ["png"], "b": ["png"], "c": ["webp"]}
    assert all(np.array_equal(decoded(next(iter(sample.values()))), pixels) for sample in packed.values())


def test_large_jpegs_that_cannot_be_rewritten_are_packed_as_they_are_and_counted(tmp_path, capsys, monkeypatch):
    source = write_photos(tmp_path / "in", 1, 720, 1000)
    (source / "small.jpg").write_bytes(encoded(photo(40, 60)))
    monkeypatch.setattr(seekable_jpeg, "library", lambda: None)
    assert pack_it(source, tmp_path / "out") == 0
    said = capsys.readouterr()
    assert said.out == "2 samples in 1 shards, 0 left out\n" and "1 large JPEGs could not be rewritten" in said.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["whole_jpegs"] == 1
    assert contents(tmp_path / "out")["p000"]["jpg"] == (source / "p000.jpg").read_bytes()
    assert next(read_images(tmp_path / "out", 32).eval_batches(2))["image"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("progressive", [False, True])
def test_large_photos_are_cut_without_decoding_them_whole_and_with_the_same_pixels(tmp_path, orientation, progressive):
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "maps").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    original = encoded(photo(720, 1000), "JPEG", exif=exif, progressive=progressive)
    with Image.open(io.BytesIO(original)) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    labels = upright[..., 1] // 8
    (tmp_path / "in" / "images" / "big.jpg").write_bytes(original)
    (tmp_path / "in" / "maps" / "big.png").write_bytes(encoded(labels, "PNG"))
    assert pack_it(tmp_path / "in", tmp_path / "out") == 0

    shards = ShardSet.open([str(tmp_path / "out")])
    stored = shards.read(0, 0, "jpg")
    assert np.array_equal(decoded(stored), decoded(original)) and len(stored) < 1.05 * len(original)
    with Image.open(io.BytesIO(stored)) as opened:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(opened)), upright)
    assert shards.member(0, 0, "jpg").layout and shards.member(0, 0, "segmentation.tif").layout
    assert shards.measured(0, 0) == (*upright.shape[:2], orientation)

    stream = read_images(tmp_path / "out", 100, ("image", "segmentation"))
    for _, step in zip(range(6), stream.train_batches(), strict=False):
        for row in range(4):
            left, top, right, bottom = step[0]["box"][row].int().tolist()
            turn = -1 if step[0]["flip"][row] else 1
            expected = upright[top:bottom, left:right][:, ::turn]
            assert np.array_equal(step[0]["image"][row].permute(1, 2, 0), expected)
            assert np.array_equal(step[0]["segmentation"][row], labels[top:bottom, left:right][:, ::turn])


def test_a_rewritten_photo_of_other_pixels_is_never_packed(tmp_path, monkeypatch):
    worse = encoded(photo(720, 1000), "JPEG", quality=30, restart_marker_blocks=1)
    monkeypatch.setattr(seekable_jpeg, "seekable", lambda data: worse)
    source = write_photos(tmp_path / "in", 1, 720, 1000)
    assert pack_it(source, tmp_path / "out") == 0
    assert contents(tmp_path / "out")["p000"]["jpg"] == (source / "p000.jpg").read_bytes()


def test_shards_of_others_get_an_index_and_damaged_ones_are_named(tmp_path, capsys):
    for name in ("a", "b"):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as writer:
            for number in range(4):
                writer.write({"__key__": f"{name}{number}", "jpg": encoded(photo(30, 40)), "cls": number})
    before = (tmp_path / "a.tar").read_bytes()
    damaged = bytearray((tmp_path / "b.tar").read_bytes())
    damaged[512 * 4] ^= 1
    (tmp_path / "b.tar").write_bytes(damaged)
    assert index.main([str(tmp_path / "{a,b}.tar")]) == 2
    said = capsys.readouterr()
    assert said.out == "4 samples in 1 shards; 1 shards could not be indexed\n"
    assert "b.tar, byte" in said.err
    assert (tmp_path / "a.tar").read_bytes() == before
    batch = next(read_images(tmp_path / "a.tar", 16, ("image", "cls")).eval_batches(4))
    assert batch["cls"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("photos", "val"), [(2, 1), (3, 1), (7, 1), (20, 2)])
def test_a_tenth_is_for_validation_where_nobody_says_how_many_and_it_is_printed(tmp_path, capsys, photos, val):
    write_photos(tmp_path / "in", photos)
    assert pack_it(tmp_path / "in", tmp_path / "out", "--val", "auto") == 0
    said = capsys.readouterr()
    assert f"for validation: {val} of {photos}" in said.err
    assert said.out.startswith(f"{photos - val} samples, {val} for validation")


def test_of_few_photos_only_those_count_that_can_be_used(tmp_path, capsys):
    write_photos(tmp_path / "in", 2)
    for number in range(30):
        (tmp_path / "in" / f"bad{number}.jpg").write_bytes(b"no image")
    assert pack_it(tmp_path / "in", tmp_path / "out", "--val", "auto") == 0
    assert capsys.readouterr().out.startswith("1 samples, 1 for validation")
    (tmp_path / "in" / "p000.jpg").unlink()
    assert pack_it(tmp_path / "in", tmp_path / "other", "--val", "auto") == 2
    assert "only 1 of 31 can be used; for example" in capsys.readouterr().err


def test_one_bad_file_of_any_kind_ends_nothing(tmp_path, capsys):
    folder = write_photos(tmp_path / "in", 3)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "again").symlink_to(".")
    (folder / "evil.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with (folder / "endless.jpg").open("wb") as file:
        file.truncate(1 << 40)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes((folder / "p000.jpg").read_bytes())
    assert pack_it(tmp_path / "in", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert said.startswith("4 samples") and said.endswith("5 left out\n")
    assert set(contents(tmp_path / "out")) == {"p000", "p001", "p002", r"caf\xe9"}
    left = {Path(row["file"]).name for row in json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]}
    assert left == {"pipe.jpg", "zero.jpg", "again", "evil.jpg", "endless.jpg"}


@pytest.mark.parametrize("side", [40, 900])  # packed as a plain member, and in tiles
@pytest.mark.parametrize("form", ["min_max", "float_png"])
def test_depths_are_brought_to_their_own_range_as_the_published_loader_does(tmp_path, side, form, capsys):
    depth = np.random.default_rng(1).normal(3, 40, (side, side)).astype(np.float32)
    source = tmp_path / "in"
    (source / "images").mkdir(parents=True)
    (source / "depth").mkdir()
    Image.fromarray(photo(side, side)).save(source / "images" / "a.png")
    if form == "min_max":
        np.save(source / "depth" / "a.npy", depth)
    else:
        Image.fromarray(depth.view(np.uint8).reshape(side, side, 4)).save(source / "depth" / "a.png")
    assert pack_it(source, tmp_path / "out", "--depth", form) == 0
    got = next(read_images(tmp_path / "out", side, ("depth",)).eval_batches(1))["depth"][0].numpy()
    theirs = (depth - depth.min()) / max(1e-8, depth.max() - depth.min())  # in the published ImageNet loader
    assert np.array_equal(got, theirs)
    assert pack_it(source, tmp_path / "out", "--depth", "stored") == 2  # shards of two forms are not mixed
    if form == "float_png":
        assert pack_it(source, tmp_path / "other", "--depth", "stored") == 2  # never guessed
        assert "a depth map has one channel, this one is RGBA" in capsys.readouterr().err
