"""Gray levels survive the way to [-1, 1] and back, and what lies outside is clamped."""

import torch

from smalti.models.pixel_range import from_levels, to_levels


def test_every_gray_level_comes_back():
    levels = torch.arange(256, dtype=torch.uint8)
    pixels = from_levels(levels)
    assert pixels.dtype == torch.float32 and pixels.min() == -1 and pixels.max() == 1
    assert torch.equal(to_levels(pixels).byte(), levels)


def test_pixels_between_levels_go_to_the_nearest_and_those_outside_to_the_ends():
    assert to_levels(torch.tensor([-2.0, 3.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1])).tolist() == [0, 255, 0, 1]
