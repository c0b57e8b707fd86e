"""``pack --side N``: a smaller set, stored once, equal to what Pillow makes of each image, map and depth."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.shards import decoded, encoded, photo
from PIL import Image

from smalti.launch.pack import main
from smalti.trainer.images.shortest_side import reduced_size, scaled_size
from smalti.trainer.shards.reader import ShardSet

LANCZOS, NEAREST, BILINEAR = Image.Resampling.LANCZOS, Image.Resampling.NEAREST, Image.Resampling.BILINEAR


def save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def packed(source: Path, to: Path, *options: str) -> ShardSet:
    assert main([str(source), str(to), "--processes", "1", *options]) == 0
    return ShardSet.open([str(to)])


def members(shards: ShardSet) -> dict[str, dict[str, bytes]]:
    """The files of each sample, by its key and their extensions."""
    return {
        shards.key(0, number): {
            extension: shards.read(0, number, extension)
            for extension in shards.index(0).extensions
            if shards.has(0, number, extension)
        }
        for number in range(shards.samples)
    }


def levels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [((375, 500), 256, (256, 341)), ((500, 375), 256, (341, 256)), ((256, 300), 256, (256, 300)),
     ((100, 99), 50, (51, 50)), ((200, 4000), 10, (10, 200)), ((40, 60), 0, (40, 60)), ((3, 5), 2, (2, 3))],
)  # fmt: skip
def test_the_shortest_side_is_what_is_asked_and_the_other_one_keeps_the_proportions(shape, side, expected):
    assert reduced_size(*shape, side) == expected
    assert scaled_size(shape, shape, expected) == expected


def test_images_are_those_of_pillow(tmp_path):
    pixels = photo(90, 121, 1)
    turned = Image.Exif()
    turned[0x0112] = 6  # the right side of what is stored is its top
    save(tmp_path / "in/a.png", encoded(pixels, "PNG"))
    save(tmp_path / "in/b.jpg", encoded(pixels, quality=90))
    save(tmp_path / "in/c.jpg", encoded(pixels, quality=90, exif=turned))
    save(tmp_path / "in/d.jpg", encoded(photo(40, 64, 2)))
    save(tmp_path / "in/e.bmp", encoded(pixels, "BMP"))
    shards = packed(tmp_path / "in", tmp_path / "out", "--side", "48")
    found = members(shards)
    smaller = np.asarray(Image.fromarray(pixels).resize((65, 48), LANCZOS))
    assert np.array_equal(decoded(found["a"]["png"]), smaller) and np.array_equal(decoded(found["e"]["png"]), smaller)
    of_jpeg = decoded((tmp_path / "in/b.jpg").read_bytes())
    upright = np.rot90(of_jpeg, -1)
    for key, source in (("b", of_jpeg), ("c", upright)):
        size = (65, 48) if key == "b" else (48, 65)
        expected = Image.fromarray(np.ascontiguousarray(source)).resize(size, LANCZOS)
        assert found[key]["jpg"] == encoded(np.asarray(expected), quality=95, subsampling=0)
    assert found["d"]["jpg"] == (tmp_path / "in/d.jpg").read_bytes()  # is no larger, and as it was
    sizes = [tuple(shards.measured(0, number)) for number in range(5)]
    assert sorted(sizes) == sorted([(48, 65, 1), (48, 65, 1), (65, 48, 1), (40, 64, 1), (48, 65, 1)])
    assert shards.provenance["side"] == 48
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["side"], report["reduced"], report["samples"]) == (48, 4, 5)


def test_maps_are_taken_at_the_middles_of_pixels_and_depths_lie_between_those_that_were(tmp_path):
    draws = np.random.default_rng(0)
    few, many = draws.integers(0, 9, (90, 120), np.uint8), draws.integers(0, 60_000, (90, 120), np.uint16)
    half = draws.integers(0, 9, (45, 60), np.uint8)
    real = draws.random((90, 120), np.float32)
    for key, labels in (("a", few), ("b", many), ("c", half)):
        save(tmp_path / f"in/images/{key}.png", encoded(photo(90, 120, 1), "PNG"))
        save(tmp_path / f"in/maps/{key}.png", encoded(labels, "PNG"))
    buffer = io.BytesIO()
    np.save(buffer, real)
    save(tmp_path / "in/depth/a.npy", buffer.getvalue())
    save(tmp_path / "in/depth/b.png", encoded(many, "PNG"))
    save(tmp_path / "in/depth/c.png", encoded(few * np.uint8(28), "PNG"))
    found = members(packed(tmp_path / "in", tmp_path / "out", "--side", "30"))
    for key, labels, size in (("a", few, (40, 30)), ("b", many, (40, 30)), ("c", half, (20, 15))):
        expected = np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, NEAREST))
        assert np.array_equal(levels(found[key]["segmentation.png"]), expected)
    smaller = {
        key: np.asarray(Image.fromarray(depth.astype(np.float32)).resize((40, 30), BILINEAR))
        for key, depth in (("a", real), ("b", many), ("c", few * np.uint8(28)))
    }
    assert np.array_equal(np.load(io.BytesIO(found["a"]["depth.npy"])), smaller["a"])
    for key in ("b", "c"):
        stored = levels(found[key]["depth.png"])
        assert np.array_equal(stored, np.rint(smaller[key])) and stored.dtype == (np.uint16 if key == "b" else np.uint8)
    assert many.min() <= smaller["b"].min() and smaller["b"].max() <= many.max()
    ranged = members(packed(tmp_path / "in", tmp_path / "ranged", "--side", "30", "--depth", "min_max"))
    depth = np.load(io.BytesIO(ranged["a"]["depth.npy"]))
    assert (depth.min(), depth.max(), depth.shape) == (0, 1, (30, 40))


def test_the_result_is_the_same_however_many_work_and_goes_on_after_a_kill(tmp_path, capsys):
    for number in range(6):
        save(tmp_path / f"in/{number}.jpg", encoded(photo(60, 80, number)))
    options = ("--side", "32", "--shard-count", "2")
    packed(tmp_path / "in", tmp_path / "one", *options)
    assert "brought to a shortest side of 32 pixels: 6 have it" in capsys.readouterr().err
    assert main([str(tmp_path / "in"), str(tmp_path / "two"), "--processes", "2", *options]) == 0
    stored = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert stored == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    (tmp_path / "two/shard-000001.tar").unlink()
    assert main([str(tmp_path / "in"), str(tmp_path / "two"), "--processes", "2", *options]) == 0
    assert stored == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert main([str(tmp_path / "in"), str(tmp_path / "two"), "--side", "40", "--shard-count", "2"]) == 2
    assert "is of another packing" in capsys.readouterr().err
