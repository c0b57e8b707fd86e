"""Procedural landscapes: their pixels, labels and sets."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from smalti.launch.demo.landscapes import LandscapeSet, landscape
from smalti.launch.demo.scene import LABELS

SEVERAL = [landscape(0, index, 96, 128) for index in range(20)]  # every composition at every hour


def share(name: str) -> list[float]:
    return [float((one.labels == LABELS.index(name)).mean()) for one in SEVERAL]


def test_the_same_numbers_render_the_same_image_and_others_another():
    again = landscape(0, 3, 96, 128)
    assert again.image.tobytes() == SEVERAL[3].image.tobytes()
    assert again.labels.tobytes() == SEVERAL[3].labels.tobytes()
    assert len({one.image.tobytes() for one in (*SEVERAL, landscape(1, 3, 96, 128))}) == 21


@pytest.mark.parametrize(("height", "width"), [(64, 64), (70, 301), (203, 97), (96, 128)])
def test_an_image_and_its_map_have_the_size_that_was_asked_for(height, width):
    for index in range(5):
        rendered = landscape(7, index, height, width)
        assert rendered.image.shape == (height, width, 3)
        assert rendered.labels.shape == (height, width)
        assert rendered.image.dtype == rendered.labels.dtype == np.uint8


def test_maps_hold_known_labels_and_a_set_holds_all_of_them():
    assert {label for one in SEVERAL for label in np.unique(one.labels)} == set(range(len(LABELS)))
    for name in LABELS:
        assert sum(value > 0 for value in share(name)) >= 4, name
    assert min(share("sky")) > 0.15
    assert max(max(share(name)) for name in LABELS) < 0.75


def test_the_sky_is_above_the_ground():
    sky_and_sun = [LABELS.index("sky"), LABELS.index("sun")]
    for one in SEVERAL:
        above = np.isin(one.labels, sky_and_sun)
        assert above[0].mean() > 0.8
        assert not above[-1].any()
        assert (above[1:] & ~above[:-1]).mean() < 0.01  # next to nowhere does sky lie under ground


def test_regions_look_like_what_their_labels_say():
    """By day a sky is more blue than red, grass more green than blue, and snowless sand warmer than water."""

    def mean_color(name: str) -> np.ndarray:
        noon = [one for index, one in enumerate(SEVERAL) if index % 4 == 1]
        pixels = [one.image[one.labels == LABELS.index(name)] for one in noon]
        return np.concatenate(pixels).astype(np.float64).mean(0)

    assert mean_color("sky")[2] > mean_color("sky")[0] + 20
    assert mean_color("sun").min() > 220
    assert mean_color("meadow")[1] > mean_color("meadow")[2] + 20
    assert mean_color("sand")[0] - mean_color("sand")[2] > 20 > mean_color("water")[0] - mean_color("water")[2]


def test_hours_differ_in_brightness():
    day, night = SEVERAL[1].image.mean(), SEVERAL[3].image.mean()
    assert day > 1.5 * night


def test_neighbouring_pixels_are_mostly_alike():
    """Smooth enough for a small network: most of the detail is in regions, not in single pixels."""
    for index in range(5):
        image = landscape(0, index, 256, 320).image.astype(np.float64)
        steps = np.abs(np.diff(image, axis=1)).mean()
        assert 0.3 < steps < 6
        assert image.std() > 25


def test_a_set_is_written_as_images_beside_maps(tmp_path):
    names = list(LandscapeSet(count=2, height=64, width=96, seed=5, first=3).render(tmp_path))
    assert names == ["landscape-0003", "landscape-0004"]
    rendered = landscape(5, 3, 64, 96)
    with Image.open(tmp_path / "maps" / "landscape-0003.png") as labels:
        assert labels.mode == "P"
        assert np.array_equal(np.asarray(labels), rendered.labels)
    png = (tmp_path / "maps" / "landscape-0003.png").read_bytes()
    assert png[24] == 8  # bits a pixel, in the header
    with Image.open(tmp_path / "images" / "landscape-0003.jpg") as image:
        assert image.size == (96, 64)
        error = np.asarray(image).astype(float) - rendered.image
        assert np.abs(error).mean() < 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "landscapes.json", "maps"]


def test_a_set_goes_on_where_it_was_and_ends_with_the_same_bytes(tmp_path):
    def digests(folder):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.[jp][pn]g")}

    whole, broken = LandscapeSet(count=3, height=64, width=64), tmp_path / "broken"
    list(whole.render(tmp_path / "whole"))
    next(whole.render(broken))
    (broken / "images" / "landscape-0000.jpg").unlink()
    kept = (broken / "maps" / "landscape-0000.png").read_bytes()
    assert sorted(whole.render(broken, processes=2)) == [f"landscape-000{number}" for number in range(3)]
    assert kept == (broken / "maps" / "landscape-0000.png").read_bytes()
    assert digests(broken) == digests(tmp_path / "whole")
    assert len(digests(broken)) == 6
    times = {path: path.stat().st_mtime_ns for path in broken.rglob("*.[jp][pn]g")}
    list(whole.render(broken))
    assert times == {path: path.stat().st_mtime_ns for path in broken.rglob("*.[jp][pn]g")}


def test_maps_alone_can_be_had(tmp_path):
    list(LandscapeSet(count=1, height=64, width=64, maps_only=True).render(tmp_path))
    assert [path.name for path in tmp_path.rglob("*.*g")] == ["landscape-0000.png"]


def test_a_folder_never_mixes_two_sets(tmp_path):
    list(LandscapeSet(count=1, height=64, width=64).render(tmp_path))
    with pytest.raises(ValueError, match=r"'seed': 0.*'seed': 1.*another folder"):
        next(LandscapeSet(count=1, height=64, width=64, seed=1).render(tmp_path))
    assert json.loads((tmp_path / "landscapes.json").read_text())["seed"] == 0


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"first": -1}, {"height": 63}, {"width": 3}])
def test_impossible_sets_are_refused(wrong):
    with pytest.raises(ValueError, match=str(*wrong.values())):
        LandscapeSet(**wrong)
