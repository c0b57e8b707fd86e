"""Published data sets, packed from small trees of the publishers' shape."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.shards import decoded, encoded, photo

from smalti.launch.prepare.__main__ import main
from smalti.trainer.data.crops import TamingCropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.shards.reader import ShardSet

PHOTO = encoded(photo(20, 30))


def prepare(*arguments: object) -> int:
    return main([str(argument) for argument in (*arguments, "--processes", 1)])


def tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """What lies in the shards of a folder, by key and extension, after Python's own tar reader."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for entry in archive:
                key, _, extension = entry.name.rpartition("/")[2].partition(".")
                folder_of = entry.name.rpartition("/")[0]
                file = archive.extractfile(entry)
                assert file is not None
                found.setdefault(f"{folder_of}/{key}".lstrip("/"), {})[extension] = file.read()
    return found


def skipped(folder: Path) -> list[str]:
    return [left["reason"] for left in json.loads((folder / "report.json").read_text())["skipped"]]


def said(folder: Path) -> dict:
    return json.loads((folder / "prepared.json").read_text())


def numbers(data: bytes) -> list:
    return np.load(io.BytesIO(data)).tolist()


def png(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "PNG")


def test_imagenet_is_read_from_its_tar_of_tars_and_keeps_the_names_of_synsets(tmp_path):
    images = {
        f"n0{synset}_{number}.JPEG": encoded(photo(20, 30, synset + number)) for synset in (1, 2) for number in (3, 4)
    }
    inner = {
        f"n0{synset}.tar": tar({f"n0{synset}_{n}.JPEG": images[f"n0{synset}_{n}.JPEG"] for n in (3, 4)})
        for synset in (2, 1)
    }
    source = write(
        tmp_path / "in",
        {
            "ILSVRC2012_img_train.tar": tar(inner),
            "ILSVRC2012_img_val.tar": tar({f"ILSVRC2012_val_{n:08d}.JPEG": PHOTO for n in (1, 2, 3)}),
            "validation_synset.txt": "ILSVRC2012_val_00000001.JPEG n02\nILSVRC2012_val_00000002.JPEG n01\n",
        },
    )
    assert prepare("imagenet", source, tmp_path / "out") == 0
    packed = members(tmp_path / "out/train")
    assert {key: sample["cls"] for key, sample in packed.items()} == {
        "n01/n01_3": b"0", "n01/n01_4": b"0", "n02/n02_3": b"1", "n02/n02_4": b"1"
    }  # fmt: skip
    assert all(packed[f"{name[:3]}/{name[:-5]}"]["jpg"] == data for name, data in images.items())
    assert ShardSet.open([str(tmp_path / "out/train")]).classes == ("n01", "n02")
    held = members(tmp_path / "out/val")
    assert {key: sample["cls"] for key, sample in held.items()} == {
        "n02/ILSVRC2012_val_00000001": b"1", "n01/ILSVRC2012_val_00000002": b"0"
    }  # fmt: skip
    assert skipped(tmp_path / "out/val") == ["has no synset in validation_synset.txt or LOC_val_solution.csv"]


def test_the_unpacked_imagenet_has_the_fingerprint_of_the_packed(tmp_path):
    files = {f"n0{synset}_1.JPEG": encoded(photo(20, 30, synset)) for synset in (1, 2)}
    archive = {f"{name[:3]}.tar": tar({name: data}) for name, data in files.items()}
    write(tmp_path / "packed", {"ILSVRC2012_img_train.tar": tar(archive)})
    write(tmp_path / "unpacked", {f"train/{name[:3]}/{name}": data for name, data in files.items()})
    write(tmp_path / "half", {f"ILSVRC2012_train/{name}": data for name, data in archive.items()})
    write_zip(
        tmp_path / "kaggle/imagenet-object-localization-challenge.zip",
        {f"ILSVRC/Data/CLS-LOC/train/{name[:3]}/{name}": data for name, data in files.items()}
        | {"ILSVRC/Data/CLS-LOC/val/n01/n01_9.JPEG": PHOTO},
    )
    prints = set()
    for form in ("packed", "unpacked", "half", "kaggle"):
        if form != "kaggle":
            write(tmp_path / form, {"val/n01/n01_9.JPEG": PHOTO})
        assert prepare("imagenet", tmp_path / form, tmp_path / f"{form}-out") == 0
        prints.add(json.dumps(said(tmp_path / f"{form}-out")))
    assert len(prints) == 1 and said(tmp_path / "packed-out")["parts"]["train"]["samples"] == 2


def test_rin_takes_the_published_classes_and_drin_their_depths(tmp_path):
    depth = np.arange(600, dtype="<f4").reshape(20, 30, 1).view(np.uint8)
    names = [f"n{number:08d}" for number in range(1000)]
    wanted = [names[n] for a, b in ((30, 32), (80, 100), (281, 285)) for n in range(a, b)]
    source = write(tmp_path / "in", {f"val/{name}/{name}_1.JPEG": PHOTO for name in names})
    write(source, {f"imagenet_depth/val/{name}/{name}_1.png": png(depth) for name in wanted})
    assert prepare("rin", source, tmp_path / "rin") == 0
    classes = said(tmp_path / "rin")["classes"]
    assert len(classes) == 194 and classes[:3] == [names[30], names[31], names[33]] and set(wanted) <= set(classes)
    labels = {key[:9]: int(sample["cls"]) for key, sample in members(tmp_path / "rin/val").items()}
    assert labels == {name: number for number, name in enumerate(classes)}
    assert skipped(tmp_path / "rin/val") == ["806 image(s) of other classes"]
    assert prepare("drin", source, tmp_path / "drin") == 0
    packed = members(tmp_path / "drin/val")
    assert sorted(key[:9] for key in packed) == sorted(wanted)
    np.testing.assert_allclose(
        numbers(packed[f"{names[80]}/{names[80]}_1"]["depth.npy"]), np.arange(600).reshape(20, 30) / 599, rtol=1e-6
    )
    assert sum("has no counterpart in" in reason for reason in skipped(tmp_path / "drin/val")) == 194 - len(wanted)


def test_rin_of_fewer_synsets_is_refused(tmp_path, capsys):
    write(tmp_path / "in", {"train/n01/n01_1.JPEG": PHOTO})
    assert prepare("rin", tmp_path / "in", tmp_path / "out") == 2
    assert "has images of 1" in capsys.readouterr().err


@pytest.mark.parametrize("zipped", [False, True])
def test_ade20k_keeps_its_labels_and_its_scenes(tmp_path, zipped):
    labels = np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8) % 151
    files: dict[str, bytes | str] = {
        "sceneCategories.txt": "ADE_train_1 beach\nADE_train_2 attic\nADE_val_1 beach\nADE_train_4 x\n"
    }
    for part, count in (("train", 3), ("val", 1)):
        folder = {"train": "training", "val": "validation"}[part]
        for number in range(1, count + 1):
            files[f"images/{folder}/ADE_{part}_{number}.jpg"] = PHOTO
            files[f"annotations/{folder}/ADE_{part}_{number}.png"] = png(labels)
    files["images/training/ADE_train_4.jpg"] = PHOTO
    if zipped:
        files |= {"../ADE_train_9.jpg": PHOTO}
        write_zip(tmp_path / "in/ADEChallengeData2016.zip", {f"ADEChallengeData2016/{n}": d for n, d in files.items()})
    else:
        write(tmp_path / "in", files)
    assert prepare("ade20k", tmp_path / "in", tmp_path / "out") == 0
    packed = members(tmp_path / "out/train")
    assert {key: sample["cls"] for key, sample in packed.items()} == {"ADE_train_1": b"1", "ADE_train_2": b"0"}
    assert said(tmp_path / "out")["classes"] == ["attic", "beach", "x"]
    assert packed["ADE_train_1"]["segmentation.png"] == png(labels)
    reasons = skipped(tmp_path / "out/train")
    assert "has no scene in sceneCategories.txt" in reasons
    assert any(reason.startswith("has no counterpart in") for reason in reasons)
    assert ("its name leads out of the archive" in reasons) == zipped
    assert not (tmp_path.parent / "ADE_train_9.jpg").exists() and not list(tmp_path.rglob("ADE_train_9*"))


def test_coco_stuff_counts_the_unlabelled_as_label_zero(tmp_path):
    labels = np.full((20, 30), 255, np.uint8)
    labels[0, :2] = 0, 181
    write_zip(tmp_path / "in/val2017.zip", {"val2017/7.jpg": PHOTO})
    write_zip(tmp_path / "in/stuffthingmaps_trainval2017.zip", {"val2017/7.png": png(labels), "train2017/8.png": b""})
    assert prepare("coco_stuff", tmp_path / "in", tmp_path / "out") == 0
    shifted = decoded(members(tmp_path / "out/val")["7"]["segmentation.png"])[..., 0]
    assert shifted[0, :3].tolist() == [1, 182, 0] and set(shifted[1:].ravel()) == {0}


def test_s_flckr_is_split_by_lists_or_at_random(tmp_path):
    maps = png(np.zeros((20, 30), np.uint8))
    files = {f"images/a/{n}.jpg": PHOTO for n in range(6)} | {f"maps/a/{n}.png": maps for n in range(6)}
    write(tmp_path / "in", files)
    write(
        tmp_path / "lists",
        {"sflckr_train.txt": "a/0.jpg\na/1.jpg\n2.jpg\na/9.jpg\n", "sflckr_validation.txt": "a/5.jpg\n"},
    )
    assert prepare("sflckr", tmp_path / "in", tmp_path / "listed", "--lists", tmp_path / "lists") == 0
    assert sorted(members(tmp_path / "listed/train")) == ["a/0", "a/1", "a/2"]
    assert sorted(members(tmp_path / "listed/val")) == ["a/5"]
    assert {"is in the list, and not there", "3 image(s) are not in the list"} <= set(
        skipped(tmp_path / "listed/train")
    )
    assert prepare("sflckr", tmp_path / "in", tmp_path / "random", "--val", 2) == 0
    assert len(members(tmp_path / "random/train")) == 4 and len(members(tmp_path / "random/val")) == 2


def faces(folder: Path) -> Path:
    arrays = {}
    for number in range(2):
        packed = io.BytesIO()
        np.save(packed, photo(16, 16, number).transpose(2, 0, 1)[None])
        arrays[f"celebahq/imgHQ0000{number}.npy"] = packed.getvalue()
    lists = {"celebahqtrain.txt": "imgHQ00000.npy\n", "celebahqvalidation.txt": "imgHQ00001.npy\n"}
    images = {f"ffhq/{n // 1000 * 1000:05d}/{n:05d}.png": png(photo(16, 16, n)) for n in (0, 59_999, 60_000)}
    return write(folder, {**arrays, **lists, **images})


def test_faceshq_is_celebahq_and_ffhq_by_class(tmp_path):
    assert prepare("faceshq", faces(tmp_path / "in"), tmp_path / "out") == 0
    packed = members(tmp_path / "out/train")
    assert {key: sample["cls"] for key, sample in packed.items()} == {
        "celebahq/imgHQ00000": b"0", "ffhq/00000/00000": b"1", "ffhq/59000/59999": b"1"
    }  # fmt: skip
    assert np.array_equal(decoded(packed["celebahq/imgHQ00000"]["png"]), photo(16, 16, 0))
    assert sorted(members(tmp_path / "out/val")) == ["celebahq/imgHQ00001", "ffhq/60000/60000"]


def test_celebahq_without_lists_asks_for_a_split(tmp_path, capsys):
    source = faces(tmp_path / "in")
    (source / "celebahqvalidation.txt").unlink()
    assert prepare("celebahq", source, tmp_path / "out") == 2
    assert "no split of its own" in capsys.readouterr().err
    assert prepare("celebahq", source, tmp_path / "out", "--val", 1) == 0
    assert said(tmp_path / "out")["parts"]["val"]["samples"] == 1


def coco(folder: Path) -> Path:
    def box(image: int, category: int, where: list[float], crowd: int = 0) -> dict:
        return {"image_id": image, "category_id": category, "bbox": where, "iscrowd": crowd, "id": 1}

    images = [{"id": n, "file_name": f"{n}.jpg", "width": 30, "height": 20} for n in (1, 2, 3, 4)]
    things = {
        "images": images,
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            box(1, 18, [3, 2, 15, 10]), box(1, 3, [0, 0, 30, 20], crowd=1), box(2, 18, [0, 0, 6, 5]),
            box(3, 3, [0, 0, 6, 5]), box(3, 3, [0, 0, 0.01, 0.01]), box(4, 3, [0, 0, 9, 9]), box(4, 3, [0, 0, 9, 9]),
        ],
    }  # fmt: skip
    stuff = {
        "images": images,
        "categories": [
            {"id": 119, "name": "flower"},
            {"id": 183, "name": "other"},
        ],
        "annotations": [box(2, 119, [6, 5, 12, 10]), box(2, 183, [0, 0, 30, 20])],
    }
    return write(
        folder,
        {
            "annotations/instances_train2017.json": json.dumps(things),
            "annotations/stuff_train2017.json": json.dumps(stuff),
            **{f"train2017/{n}.jpg": PHOTO for n in (1, 2, 3, 5)},
        },
    )


def test_boxes_of_coco_keep_what_is_large_enough_and_multiply_groups_in(tmp_path):
    assert prepare("coco_boxes", coco(tmp_path / "in"), tmp_path / "out", "--max-objects", 4) == 0
    packed = members(tmp_path / "out/train")
    # Identifiers as words: 119 flower, 18 dog, 3 car. A crowd is a group: 2 + 3 classes.
    assert said(tmp_path / "out")["classes"] == ["flower", "dog", "car"]
    assert numbers(packed["1"]["object_classes.npy"]) == [1, 5, -1, -1]
    np.testing.assert_allclose(
        numbers(packed["1"]["object_boxes.npy"])[:2], [[3, 2, 18, 12], [0, 0, 30, 20]], rtol=1e-6
    )
    assert numbers(packed["2"]["object_classes.npy"]) == [1, 0, -1, -1]
    assert sorted(packed) == ["1", "2"]
    assert sorted(skipped(tmp_path / "out/train")) == [
        "1 annotated image(s) are not there, such as 4.jpg",
        "1 image(s) with fewer than 2 object(s) of a share above 1e-05",
        "1 image(s) without an annotation",
    ]


def test_a_crop_carries_the_boxes_of_its_image_and_its_own(tmp_path):
    assert prepare("coco_boxes", coco(tmp_path / "in"), tmp_path / "out", "--max-objects", 4) == 0
    crop = TamingCropConfig(size=16, resize=20, random=True, flip=0.0)
    data = DataConfig(shards=(str(tmp_path / "out/train"),), crop=crop)
    stream = Stream(data, ("image", "object_classes", "object_boxes"), global_batch=2, micro_batch=2)
    (batch,) = next(stream.train_batches())
    assert batch["image"].shape == (2, 3, 16, 16) and batch["source_size"].tolist() == [[20, 30], [20, 30]]
    row = batch["key"].index("1")
    assert batch["object_classes"][row].tolist() == [1, 5, -1, -1]
    torch.testing.assert_close(batch["object_boxes"][row, 0], torch.tensor([3.0, 2, 18, 12]))
    left, top, right, bottom = batch["box"][row].tolist()
    assert (right - left, bottom - top) == (16, 16) and 0 <= left <= 14 and 0 <= top <= 4


def test_boxes_on_an_image_of_another_size_leave_it_out(tmp_path):
    source = coco(tmp_path / "in")
    (source / "train2017/2.jpg").write_bytes(encoded(photo(40, 30)))
    assert prepare("coco_boxes", source, tmp_path / "out") == 0
    assert sorted(members(tmp_path / "out/train")) == ["1"]
    assert "its boxes are for an image of 30 x 20, not of 30 x 40" in skipped(tmp_path / "out/train")


def open_images(folder: Path, rows: list[list[object]]) -> Path:
    heading = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    said_rows = io.StringIO()
    csv.writer(said_rows).writerows(rows)
    return write(
        folder,
        {
            "class-descriptions-boxable.csv": "/m/a,Cat\n/m/b,Tiger\n/m/01s55n,Bag\n/m/c,Dog\n",
            "oidv6-train-annotations-bbox.csv": f"{heading}\n{said_rows.getvalue()}",
            "train/0000000000000abc.jpg": PHOTO,
            "keep.txt": "Cat\nTiger\nBag\n",
            "merge.txt": "Tiger,Cat\n",
        },
    )


def test_boxes_of_open_images_with_attributes_and_merged_classes(tmp_path):
    rows: list[list[object]] = [
        ["0000000000000abc", "x", "/m/b", 1, 0.1, 0.5, 0.2, 0.6, 1, 0, 1, 0, 0],
        ["abc", "x", "/m/01s55n", 1, 0, 1, 0, 1, 0, 1, 0, 1, 1],
        ["abc", "x", "/m/c", 1, 0, 1, 0, 1, 0, 0, 0, 0, 0],
    ]
    source = open_images(tmp_path / "in", rows)
    choices = ("--keep-classes", source / "keep.txt", "--merge-classes", source / "merge.txt", "--max-objects", 3)
    assert prepare("open_images", source, tmp_path / "out", *choices) == 0
    (sample,) = members(tmp_path / "out/train").values()
    # Cat is 0, with the tigers; the bag comes last, as published. 1 group + 2 occluded, 4 depicted + 8 inside.
    assert said(tmp_path / "out")["classes"] == ["Cat", "Bag"]
    assert numbers(sample["object_classes.npy"]) == [0 + 2 * 3, 1 + 2 * 12, -1]
    np.testing.assert_allclose(numbers(sample["object_boxes.npy"])[0], [3, 4, 15, 12], rtol=1e-6)
    assert prepare("open_images", source, tmp_path / "plain", *choices, "--attributes", "none") == 0
    (sample,) = members(tmp_path / "plain/train").values()
    assert numbers(sample["object_classes.npy"]) == [0, 1, -1]


STUFF, TRAIN, ADE = "annotations/stuff_train2017.json", "ILSVRC2012_img_train.tar", "ADEChallengeData2016.zip"


@pytest.mark.parametrize(
    ("name", "file", "becomes", "reason"),
    [
        ("coco_boxes", STUFF, None, "no annotations of stuff"),
        ("coco_boxes", STUFF, b"{", "are no JSON"),
        ("coco_boxes", STUFF, b"{}", "publisher's form"),
        ("imagenet", TRAIN, b"\x1f\x8b" + bytes(600), "get it again"),
        ("imagenet", TRAIN, tar({"n1.tar": tar({"a.JPEG": PHOTO})})[:1000], "cut off"),
        ("imagenet", TRAIN, tar({"n1/a.txt": PHOTO}), "no image of train"),
        ("imagenet", "nothing", b"", "no image of train"),
        ("ade20k", "nothing", b"", "has no sceneCategories.txt"),
        ("ade20k", ADE, b"PK\3\4 no zip", "get it again"),
        ("open_images", "nothing", b"", "has no names of classes"),
        ("coco_stuff", "nothing", b"", "no maps of stuff and things of train2017"),
    ],
)
def test_what_is_missing_or_damaged_is_named(tmp_path, capsys, name, file, becomes, reason):
    source = coco(tmp_path / "in")
    if name == "imagenet":
        write(source, {"train/n01.txt": ""})
    (source / file).unlink(missing_ok=True)
    if becomes is not None:
        (source / file).write_bytes(becomes)
    assert prepare(name, source, tmp_path / "out") == 2
    assert reason in capsys.readouterr().err


def test_a_damaged_image_inside_an_archive_is_left_out_and_named(tmp_path):
    write_zip(
        tmp_path / "in/val2017.zip", {"val2017/7.jpg": PHOTO, "val2017/8.jpg": PHOTO, "val2017/9.jpg": PHOTO[:300]}
    )
    write_zip(
        tmp_path / "in/stuffthingmaps_trainval2017.zip",
        {f"val2017/{n}.png": png(np.full((20, 30), n, np.uint8)) for n in (7, 8, 9)},
    )
    archive = bytearray((tmp_path / "in/val2017.zip").read_bytes())
    place = archive.index(PHOTO[200:260] if PHOTO[200:260] in archive else b"8.jpg") + 60
    archive[place] ^= 255  # inside of the compressed bytes of 8.jpg
    (tmp_path / "in/val2017.zip").write_bytes(archive)
    assert prepare("coco_stuff", tmp_path / "in", tmp_path / "out") == 0
    assert sorted(members(tmp_path / "out/val")) == ["7"]
    left = json.loads((tmp_path / "out/val/report.json").read_text())["skipped"]
    assert {row["file"].rpartition("/")[2] for row in left if row["key"] in "89"} == {"8.jpg", "9.jpg"}


def test_it_goes_on_after_a_kill_and_writes_over_nobody_s_files(tmp_path):
    files = {f"n01_{n}.JPEG": encoded(photo(300, 400, n)) for n in range(60)}
    source = write(tmp_path / "in", {"ILSVRC2012_img_train.tar": tar({"n01.tar": tar(files)})})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # a MB a shard
    asked = ["imagenet", str(source), str(killed), "--shard-size", "1", "--processes", "1"]
    process = subprocess.Popen([sys.executable, "-m", "smalti.launch.prepare", *asked], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(killed.glob("train/*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(killed.glob("train/*.tar")) and not (killed / "prepared.json").exists()
    assert main(asked) == 0 and main([*asked[:2], str(whole), *asked[3:]]) == 0
    assert {p.name: p.read_bytes() for p in (killed / "train").iterdir()} == {
        p.name: p.read_bytes() for p in (whole / "train").iterdir()
    }
    (killed / "prepared.json").write_text("mine")
    assert main(asked) == 2 and (killed / "prepared.json").read_text() == "mine"
