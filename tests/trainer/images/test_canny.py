"""Edges equal OpenCV 4.11's and scikit-image 0.26's, by vectors that they made (``vectors/make_canny.py``)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from smalti.trainer.images.canny import canny, connected, published_edges

VECTORS = Path(__file__).parent / "vectors"
_spec = importlib.util.spec_from_file_location("make_canny", VECTORS / "make_canny.py")
make_canny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_canny)


@pytest.fixture(scope="module")
def opencv() -> dict[str, np.ndarray]:
    with np.load(VECTORS / "canny.npz") as made:
        assert made["version"] == "4.11.0"
        return {name: made[name] for name in made.files}


def test_edges_are_opencvs_for_noise_shapes_lines_and_single_pixels(opencv):
    found = 0
    for name, image, low, high, euclidean in make_canny.cases():
        ours = canny(image, low, high, euclidean)
        assert np.array_equal(np.packbits(ours), opencv[name]), name
        found += ours.sum()
    assert found > 10_000


def test_published_edges_are_those_of_scikit_image(opencv):
    found = tried = 0
    for name, image, *_ in make_canny.cases():
        if f"{name}-published" in opencv:
            ours = published_edges(image)
            assert np.array_equal(np.packbits(ours), opencv[f"{name}-published"]), name
            found, tried = found + ours.sum(), tried + 1
    assert tried > 30 and found > 5000


def test_a_weak_place_counts_where_a_chain_leads_to_a_strong_one():
    weak = np.array([[1, 0, 0, 1, 1], [0, 1, 0, 0, 0], [1, 0, 0, 1, 0]], bool)
    strong = np.zeros_like(weak)
    strong[2, 0] = True
    assert connected(strong, weak | strong).tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
