"""A palette of colors is a tokenizer of single pixels: found the same each time, and taken by every command."""

import io
import json

import numpy as np
import pytest
from fixtures.runs import write_prior
from fixtures.shards import decoded, encoded
from PIL import Image

from smalti.launch.__main__ import main
from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.images.geometry import Measured
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

COLORS = np.array([[250, 10, 20], [0, 200, 0], [30, 30, 240], [255, 255, 255], [90, 90, 90]], np.uint8)
SIDE, IMAGES = 6, 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images of five colors, each a little off, and their palette."""
    folder = tmp_path_factory.mktemp("palette")
    draws = np.random.default_rng(0)
    with ShardWriter(folder / "images", "i", 8, {"made by": "the tests"}) as writer:
        for number in range(IMAGES):
            pixels = COLORS[draws.integers(0, 5, (SIDE, SIDE))].astype(np.int16)
            pixels = np.clip(pixels + draws.integers(-3, 4, pixels.shape), 0, 255).astype(np.uint8)
            writer.write(f"i{number:02d}", {"png": encoded(pixels, "PNG")}, Measured(SIDE, SIDE))
    assert main(found(folder, "palette")) == 0
    return folder


def found(folder, name):
    return ["palette", str(folder / "images"), str(folder / name), "--size", f"{SIDE}x{SIDE}", "--colors", "5"]


def levels(folder):
    return (load_tokenizer(folder).model.quantize.embedding.weight.numpy() + 1) * 127.5


def images(folder):
    shards = ShardSet.open([str(folder)])
    return [decoded(shards.read(0, number, "png")) for number in range(8)]


def test_the_palette_is_the_means_of_the_clusters_and_the_same_each_time(place):
    colors = levels(place / "palette")
    nearest = ((colors[:, None] - COLORS[None].astype(float)) ** 2).sum(2).argmin(1)
    assert sorted(nearest) == [0, 1, 2, 3, 4]
    assert np.abs(colors - COLORS[nearest]).max() < 3  # the noise is at most so large, and 0 and 255 are clipped
    assert main(found(place, "again")) == 0
    assert np.array_equal(colors, levels(place / "again"))


def test_a_pixel_is_coded_as_its_nearest_color_whatever_the_tiles(place, tmp_path):
    assert main(["encode", str(place / "palette"), str(place / "images"), str(tmp_path / "codes"), "--tile", "5"]) == 0
    codes, colors = ShardSet.open([str(tmp_path / "codes")]), levels(place / "palette")
    assert codes.provenance["factor"] == 1 and codes.samples == IMAGES
    for number, pixels in enumerate(images(place / "images")):
        gaps = ((pixels[:, :, None].astype(float) - colors) ** 2).sum(3)
        assert np.array_equal(np.load(io.BytesIO(codes.read(0, number, "codes.npy"))), gaps.argmin(2))


def test_a_prior_over_pixels_is_trained_evaluated_sampled_and_completes_images(place, tmp_path):
    for part in ("codes", "val"):
        arguments = [str(place / "palette"), str(place / "images"), str(tmp_path / part)]
        assert main(["encode", *arguments, "--size", "6x6", "--flip", "0"]) == 0
    data = {"shards": [str(tmp_path / "codes")], "crop": {"kind": "codes", "window": [6, 6]}}
    model = {"kind": "gpt", "layers": 1, "heads": 2, "width": 16, "window": [6, 6]}
    config = write_prior(
        tmp_path, tokenizer=str(place / "palette"), train_data=data, val_data=data, model=model, loop__preview_every=2,
        previews={"share": 1.0},
    )  # fmt: skip
    assert main(["train", str(config)]) == 0
    run = tmp_path / "run"
    Image.fromarray(np.tile(COLORS[:3].repeat(2, 0)[:, None], (1, 6, 1))).save(tmp_path / "photo.png")
    asked = ["--init-image", str(tmp_path / "photo.png"), "--keep-rows", "0.5", "--out", str(tmp_path / "out")]
    assert main(["sample", str(run), *asked]) == 0
    (path,) = (tmp_path / "out").glob("*.png")
    colors = np.round(levels(place / "palette")).astype(int)
    completed = np.asarray(Image.open(path)).astype(int)
    assert all(any(np.abs(pixel - color).max() <= 1 for color in colors) for pixel in completed.reshape(-1, 3))
    assert np.abs(completed[:3] - np.asarray(Image.open(tmp_path / "photo.png"))[:3].astype(int)).max() < 4
    for network, figure in ((run, "nll"), (place / "palette", "psnr")):
        data = tmp_path / "val" if network == run else place / "images"
        cut = [] if network == run else ["--size", "6x6", "--features", "none", "--lpips", "none"]
        assert main(["evaluate", str(network), str(data), *cut, "--out", str(tmp_path / f"{figure}.json")]) == 0
    assert json.loads((tmp_path / "psnr.json").read_text())["figures"]["psnr"] > 35  # of an error of about 2 levels
    assert json.loads((tmp_path / "nll.json").read_text())["figures"]["nll"] < np.log(5) + 0.5


def test_what_cannot_be_is_refused(place, tmp_path, capsys):
    assert main(found(place, "palette")) == 2
    assert f"{place / 'palette'} is there already" in capsys.readouterr().err
    assert main(["palette", str(place / "images"), str(tmp_path / "one"), "--size", "6x6", "--colors", "1"]) == 2
    assert "codebook_size must be at least 2" in capsys.readouterr().err
