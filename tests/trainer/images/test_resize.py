"""Resampling of images and of labels."""

import numpy as np
import torch
from fixtures.shards import photo
from PIL import Image
from torch.nn import functional as F

from smalti.trainer.images.geometry import Crop
from smalti.trainer.images.resize import antialiased, nearest_points, region_of, scaled


def test_labels_are_taken_and_never_mixed():
    labels = np.random.default_rng(0).integers(0, 182, (90, 120), dtype=np.uint8)
    crop = Crop(10, 20, 70, 80)
    region = region_of(crop, 90, 120)
    ours = nearest_points(labels[20:80, 10:70], region, crop, (24, 24))
    part = torch.from_numpy(labels[20:80, 10:70].copy())[None, None].float()
    theirs = F.interpolate(part, size=(24, 24), mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(ours, theirs)


def test_a_crop_of_the_output_size_is_left_as_it_is():
    pixels = photo(40, 40)
    assert antialiased(pixels, (40, 40)) is pixels
    crop = Crop(0, 0, 40, 40)
    assert nearest_points(pixels[..., 0], region_of(crop, 40, 40), crop, (40, 40)).tolist() == pixels[..., 0].tolist()


def test_reduction_is_antialiased():
    checks = np.indices((64, 64)).sum(0) % 2 * 255  # a checkerboard of single pixels is gray from afar
    pixels = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    assert np.abs(antialiased(pixels, (16, 16)).astype(int)[2:-2, 2:-2] - 127).max() <= 2
    expected = Image.fromarray(pixels).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(antialiased(pixels, (16, 16)), np.asarray(expected))


def test_a_box_of_broken_pixels_needs_their_neighbours():
    assert region_of(Crop(1.5, 2.0, 5.5, 6.0), 100, 100) == (1, 1, 6, 7)
    assert region_of(Crop(0.25, 0.25, 9.9, 9.9), 10, 10) == (0, 0, 10, 10)
    assert region_of(Crop(1, 2, 5, 6), 100, 100) == (1, 2, 5, 6)


def test_a_map_of_half_the_size_is_cut_at_half_the_numbers():
    assert scaled(Crop(10, 20, 30, 40, True), 0.5) == Crop(5, 10, 15, 20, True)
