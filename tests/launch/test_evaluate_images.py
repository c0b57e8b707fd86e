"""Folders of images of any size are compared by crops that cover them, and looked at for seams."""

import json

import numpy as np
import processes
import pytest
import torch
from fixtures.feature_networks import NotFinite, frechet, write_network
from fixtures.shards import encoded, photo
from PIL import Image

from smalti.launch.evaluate import __main__ as evaluate
from smalti.trainer.images.geometry import Measured
from smalti.trainer.sampling.image_files import IMAGES, save
from smalti.trainer.sampling.job import SAMPLED
from smalti.trainer.shards.writer import ShardWriter

SIDE, MADE, REAL = 16, (40, 33), (36, 52)
STEP = 40  # gray levels between neighboring tiles


def ramp(height: int, width: int, tile: int) -> np.ndarray:
    """Rises by one gray level a pixel to the right, and by ``STEP`` from tile to tile."""
    columns = np.arange(width)
    line = columns + (STEP - 1) * (columns // tile) if tile else columns
    return np.repeat(np.repeat(line.astype(np.uint8)[None, :, None], height, 0), 3, 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "made").mkdir()
    for number in range(5):
        Image.fromarray(photo(*MADE, number + 50)).save(folder / "made" / f"s{number}.png")
    unfinished = Image.fromarray(photo(*MADE, 90))
    save(unfinished, folder / "made" / "s9.preview.png", {SAMPLED: 3})
    save(unfinished, folder / "made" / "grid.png", {IMAGES: ["s0.png"]})
    with ShardWriter(folder / "real", "x", 3, {}) as writer:
        for number in range(7):
            writer.write(f"r{number}", {"png": encoded(photo(*REAL, number), "PNG")}, Measured(*REAL))
    write_network(folder / "net.pt")
    return folder


def words(place, *more, made="made", real="real"):
    common = ["--size", f"{SIDE}x{SIDE}", "--features", place / "net.pt", "--batch", 4]
    return [str(word) for word in (place / made, place / real, *common, *more)]


def refused(capsys, *arguments):
    assert evaluate.main([*arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def covering(image, side=SIDE):
    """By hand: every ``side`` pixels, the last flush with the border."""
    starts = ([*range(0, length - side, side), length - side] for length in image.shape[:2])
    rows, columns = (list(each) for each in starts)
    return [image[top : top + side, left : left + side] for top in rows for left in columns]


def test_the_distance_is_that_of_crops_that_cover_all_images_on_any_number_of_ranks(place, tmp_path):
    network = torch.jit.load(str(place / "net.pt"))
    sets = []
    for size, numbers in ((REAL, range(7)), (MADE, range(50, 55))):
        crops = np.stack([crop for number in numbers for crop in covering(photo(*size, number))])
        with torch.no_grad():
            sets.append(network(torch.from_numpy(crops).permute(0, 3, 1, 2))[0].double().numpy())
    assert [len(each) for each in sets] == [7 * 12, 5 * 9]
    assert evaluate.main(words(place, "--out", tmp_path / "1.json")) == 0
    alone = json.loads((tmp_path / "1.json").read_text())
    assert alone["figures"]["crop_fid"] == pytest.approx(frechet(*sets), rel=1e-5)
    assert alone["figures"].keys() == {"crop_fid", "sfid"}
    protocol = alone["protocol"]
    assert protocol["crop"] == "16x16 that cover each image, 1 to 1 source pixels a pixel"
    assert [protocol[name] for name in ("samples", "real_crops", "made_images", "made_crops")] == [7, 84, 5, 45]
    shared = words(place, "--out", tmp_path / "2.json")
    ended = processes.command("smalti.launch.evaluate", shared, 2, {"OMP_NUM_THREADS": "1"}).wait()
    assert not any(ended.codes), ended.log
    both = json.loads((tmp_path / "2.json").read_text())
    assert both["protocol"] == protocol
    assert both["figures"] == pytest.approx(alone["figures"], rel=1e-9)


def test_borders_show_in_the_seam_ratio_and_a_smooth_image_has_none(place, tmp_path):
    for name, tile in (("broken", 12), ("smooth", 0)):
        (tmp_path / name).mkdir()
        for number, width in enumerate((48, 40)):
            Image.fromarray(ramp(24, width, tile)).save(tmp_path / name / f"{number}.png")
        arguments = words(place, "--features", "none", "--seams", 12, "--out", tmp_path / f"{name}.json")
        assert evaluate.main([str(tmp_path / name), *arguments[1:]]) == 0
    ratios = {name: json.loads((tmp_path / f"{name}.json").read_text())["figures"] for name in ("broken", "smooth")}
    # Of 24 rows: lines between rows are flat, 22 off and 1 on a border; between columns one level, STEP on a border.
    broken = [borders * STEP / (borders + 1) / (inside / (inside + 22)) for borders, inside in ((3, 44), (3, 36))]
    smooth = [borders / (borders + 1) / (inside / (inside + 22)) for borders, inside in ((3, 44), (3, 36))]
    assert ratios["broken"] == {"seam_ratio": pytest.approx(np.mean(broken), rel=1e-4)}
    assert ratios["smooth"] == {"seam_ratio": pytest.approx(np.mean(smooth), rel=1e-4)}


def test_real_images_of_the_same_crops_may_be_given_as_statistics(place, tmp_path, capsys):
    saved = tmp_path / "real.npz"
    assert evaluate.main(words(place, "--save-statistics", saved, "--out", tmp_path / "a.json")) == 0
    assert evaluate.main(words(place, "--reference", saved, "--out", tmp_path / "b.json")) == 0
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert one["figures"] == pytest.approx(other["figures"], rel=1e-12)
    assert "another protocol" in refused(capsys, *words(place, "--reference", saved, "--size", "12x12"))


def test_folders_that_cannot_be_compared_are_told_in_a_line(place, tmp_path, capsys):
    twice, small, few = (tmp_path / name for name in ("twice", "small", "few"))
    for folder in (twice, small, few):
        folder.mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(photo(*MADE, 1)).save(twice / name)
    Image.fromarray(photo(12, 40, 1)).save(small / "a.png")
    Image.fromarray(photo(SIDE, SIDE, 1)).save(few / "a.png")
    arguments = words(place)[1:]
    assert "have one name" in refused(capsys, str(twice), *arguments)
    said = refused(capsys, str(small), *arguments)
    assert "a.png: " in said and "too small for crops of 16" in said
    assert "a covariance needs at least 2 samples, got 1" in refused(capsys, str(few), *arguments)
    assert "a seam lies between two tiles" in refused(capsys, str(few), *arguments, "--seams", "16")
    assert "give --size 256x256" in refused(capsys, str(few), str(place / "real"), "--features", "none")
    network = write_network(tmp_path / "nan.pt", NotFinite)
    assert "gives NaN or infinity for the image s0.png" in refused(capsys, *words(place, "--features", network))
    (few / "b.png").write_text("no image")
    assert "b.png: not an image" in refused(capsys, str(few), *arguments)


def test_too_few_crops_are_said_loudly(place, tmp_path, capsys):
    for number in range(3):
        Image.fromarray(photo(SIDE, SIDE, number)).save(tmp_path / f"{number}.png")
    assert evaluate.main([str(tmp_path), *words(place)[1:]]) == 0
    assert "WARNING: crop_fid is of 3 samples in 6 dimensions" in capsys.readouterr().out
