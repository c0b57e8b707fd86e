"""Resizing equals OpenCV 4.11's, by vectors that it made (``vectors/make_opencv.py``), whole and in parts.

By our own arithmetic, and by the OpenCV that is installed where all of the source is at hand.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.shards import encoded

from smalti.trainer.data.crops import TamingCropConfig
from smalti.trainer.data.image_samples import ImageReader
from smalti.trainer.images import opencv_resize
from smalti.trainer.images.geometry import Measured, Region
from smalti.trainer.images.opencv_resize import Axis, needed, resized_depth, resized_image, resized_labels
from smalti.trainer.shards.index import SampleLocation
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

VECTORS = Path(__file__).parent / "vectors"
_spec = importlib.util.spec_from_file_location("make_opencv", VECTORS / "make_opencv.py")
make_opencv = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_opencv)


@pytest.fixture(scope="module")
def opencv() -> dict[str, np.ndarray]:
    with np.load(VECTORS / "opencv_4_11.npz") as made:
        assert made["version"] == "4.11.0"
        return {name: made[name] for name in made.files}


@pytest.fixture(params=["own", "OpenCV"])
def made_by(request, monkeypatch) -> str:
    """Who makes images that are there whole."""
    if request.param == "own":
        monkeypatch.setattr(opencv_resize, "_opencv", lambda: None)
    else:
        pytest.importorskip("cv2")
        assert opencv_resize._opencv() is not None
    return request.param


def parts(source: tuple[int, int], result: tuple[int, int]):
    """The whole result, and parts of it: middle, corners, a row, a column, a pixel; as (rows, columns)."""
    height, width = result
    boxes = [(0, 0, height, width), (height // 3, width // 4, -(-height // 2), -(-width // 2))]
    boxes += [(height - 1, 0, 1, width), (0, width - 1, height, 1), (height // 2, width // 2, 1, 1)]
    for top, left, rows, columns in boxes:
        rows, columns = min(rows, height - top), min(columns, width - left)
        yield Axis(source[0], height, top, rows), Axis(source[1], width, left, columns)


def cut(values: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    return values[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]


def in_parts(values: np.ndarray, result: tuple[int, int]):
    """Each part with the pixels that it is said to need, and no others."""
    for rows, columns in parts(values.shape[:2], result):
        region = needed(rows, columns)
        yield values[region.top : region.bottom, region.left : region.right], region, rows, columns


@pytest.mark.parametrize("case", list(make_opencv.cases()), ids=lambda case: f"{case[1]['depth'].shape}-{case[2]}")
def test_every_part_is_opencvs(opencv, made_by, case):
    name, inputs, result = case
    for held in in_parts(inputs["image"], result):
        ours = resized_image(*held, "bilinear")
        assert ours.dtype == np.uint8
        assert np.array_equal(ours, cut(opencv[f"{name}-image-LINEAR"], *held[2:]))
    for kind in make_opencv.LABELS:
        for held in in_parts(inputs[kind], result):
            ours = resized_labels(*held)
            assert ours.dtype == inputs[kind].dtype
            assert np.array_equal(ours, cut(opencv[f"{name}-{kind}-NEAREST"], *held[2:]))
    for held in in_parts(inputs["depth"], result):
        ours = resized_depth(*held)
        assert ours.dtype == np.float32
        assert np.abs(ours - cut(opencv[f"{name}-depth-LINEAR"], *held[2:])).max() < 2e-5  # of 2; IPP's own error


@pytest.mark.parametrize("source", [(37, 52), (64, 64), (120, 91), (5, 3)])
def test_a_part_is_the_same_whoever_makes_it_and_out_of_all_pixels_or_few(made_by, source):
    stored = np.random.default_rng(3).integers(0, 256, (*source, 3), dtype=np.uint8)
    for pixels in (stored, stored[:, ::-1], stored[::-1].swapaxes(0, 1)):
        shape = pixels.shape[:2]
        whole = Region(0, 0, shape[1], shape[0])
        for result in ((31, 45), (70, 64), (2 * shape[0], shape[1])):
            for rows, columns in parts(shape, result):
                region = needed(rows, columns)
                few = pixels[region.top : region.bottom, region.left : region.right]
                made = resized_image(pixels, whole, rows, columns, "bilinear")
                assert np.array_equal(made, resized_image(few, region, rows, columns, "bilinear"))


def test_a_build_of_opencv_that_rounds_otherwise_is_not_used(monkeypatch):
    cv2 = pytest.importorskip("cv2")

    def other(pixels, size):
        resized = cv2.resize(pixels, size)
        resized[-1, -1, -1] ^= 1
        return resized

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(resize=other, setNumThreads=lambda count: None))
    assert opencv_resize._opencv.__wrapped__() is None
    monkeypatch.setitem(sys.modules, "cv2", None)  # as where it is not installed
    assert opencv_resize._opencv.__wrapped__() is None


def test_bicubic_images_are_opencvs_but_for_halves_that_float32_rounds_otherwise(opencv):
    values = different = 0
    for name, inputs, result in make_opencv.cases():
        if min(inputs["depth"].shape) < 4:  # narrower than the kernel: there OpenCV leaves IPP for its own arithmetic
            continue
        for held in in_parts(inputs["image"], result):
            off = resized_image(*held, "bicubic").astype(int) - cut(opencv[f"{name}-image-CUBIC"], *held[2:])
            assert np.abs(off).max() <= 1
            values, different = values + off.size, different + np.count_nonzero(off)
    assert different <= 2e-4 * values  # by one gray level each; noise at exact ratios has the most halves


@pytest.mark.parametrize("random", [True, False])
def test_crops_of_shards_are_opencvs_image_labels_and_depth_alike(tmp_path, opencv, made_by, random):
    usable = [case for case in make_opencv.cases() if min(case[2]) == 32]  # brought to a shortest side of 32
    with ShardWriter(tmp_path, "x", 99, {}) as writer:
        for name, inputs, _ in usable:
            depth = inputs["depth"] / 2 + 0.5
            members = {"png": encoded(inputs["image"], "PNG"), "segmentation.png": encoded(inputs["uint8"], "PNG")}
            with (tmp_path / "depth.npy").open("wb") as file:
                np.save(file, depth)
            members["depth.npy"] = (tmp_path / "depth.npy").read_bytes()
            writer.write(name, members, Measured(*depth.shape))
    config = TamingCropConfig(size=24, resize=32, random=random, flip=0.5)
    reader = ImageReader(ShardSet.open([str(tmp_path)]), ("image", "segmentation", "depth"), config, {}, {})
    seen = set()
    for number, (name, inputs, result) in enumerate(usable):
        height, width = inputs["depth"].shape
        crops = [config.draw(height, width, key) for key in range(8)]
        rows = reader.read(SampleLocation(0, number), lambda *_, crops=crops: crops)
        for crop, row in zip(crops, rows, strict=True):
            top, left = round(crop.top * result[0] / height), round(crop.left * result[1] / width)
            if not random:
                assert (top, left) == ((result[0] - 24) // 2, (result[1] - 24) // 2)

            def theirs(kind, flip=crop.flip, top=top, left=left, name=name):
                whole = opencv[f"{name}-{kind}"][top : top + 24, left : left + 24]
                return whole[:, ::-1] if flip else whole

            assert np.array_equal(row["image"].transpose(1, 2, 0), theirs("image-LINEAR"))
            assert np.array_equal(row["segmentation"], theirs("uint8-NEAREST"))
            assert np.abs(row["depth"] * 2 - 1 - theirs("depth-LINEAR")).max() < 2e-5
            seen.add(crop.flip)
    assert seen == {True, False}


def test_a_map_of_another_size_than_its_image_is_brought_to_the_same_cut():
    config = TamingCropConfig(size=16, random=False)
    rows, columns = config.axes(config.center(64, 96), (64, 96), (32, 48))
    assert rows == Axis(32, 16, 0, 16) and columns == Axis(48, 24, 4, 16)
