"""Which part of an image a crop takes."""

import math
from collections import Counter

import numpy as np
import pytest

from smalti.trainer.data.crops import CodeCropConfig, CropConfig, TamingCropConfig, TooSmallError, crop_box
from smalti.trainer.images.geometry import Crop


def covered(crops, height, width):
    seen = np.zeros((height, width), int)
    for crop in crops:
        seen[int(crop.top) : int(crop.bottom), int(crop.left) : int(crop.right)] += 1
    return seen


def test_a_crop_depends_on_the_key_alone_and_lies_inside():
    config = CropConfig(size=32, scale=(0.8, 4.0))
    crops = [crop_box(config, 90, 150, key) for key in range(300)]
    assert crops == [crop_box(config, 90, 150, key) for key in range(300)]
    assert len(set(crops)) > 290
    assert all(0 <= c.left < c.right <= 150 and 0 <= c.top < c.bottom <= 90 and c.width == c.height for c in crops)


def test_native_resolution_is_the_default():
    assert {crop_box(CropConfig(size=64), 100, 100, key).width for key in range(20)} == {64}


def test_scales_are_log_uniform_between_the_limits():
    config = CropConfig(size=10, scale=(1.0, 16.0))
    sides = [crop_box(config, 1000, 1000, key).width for key in range(4000)]
    assert min(sides) >= 10 and max(sides) <= 160
    below = [sum(side < 10 * 2**power for side in sides) / 4000 for power in (1, 2, 3)]
    assert below == pytest.approx([0.25, 0.5, 0.75], abs=0.03)  # each octave has a quarter


def test_scales_end_where_the_image_does():
    assert {crop_box(CropConfig(size=8, scale=(math.inf, math.inf)), 50, 90, key).width for key in range(9)} == {50}
    sides = {crop_box(CropConfig(size=10, scale=(2.0, 100.0)), 30, 99, key).width for key in range(500)}
    assert min(sides) == 20 and max(sides) == 30


def test_clamping_covers_the_border_half_as_often_as_the_mean():
    # A center within half a side of the border is moved inside: closed form on one axis of length L = 100 and side
    # s = 20, per draw: pixel 0 is covered if the center is below s / 2, so 0.1; the mean pixel s / L = 0.2.
    config = CropConfig(size=20, flip=0)
    seen = covered((config.draw(20, 100, key) for key in range(4000)), 20, 100)[0] / 4000
    assert seen[0] == pytest.approx(0.1, abs=0.02) and seen[-1] == pytest.approx(0.1, abs=0.02)
    assert seen[50] == pytest.approx(0.2, abs=0.03)
    uniform = CropConfig(size=20, flip=0, position="uniform")
    seen = covered((uniform.draw(20, 100, key) for key in range(4000)), 20, 100)[0] / 4000
    assert seen[0] == pytest.approx(1 / 81, abs=0.008)


def test_crops_nearly_as_large_as_the_image_still_move():
    starts = Counter(CropConfig(size=90).draw(100, 100, key).left for key in range(4000))
    assert starts[0] / 4000 == pytest.approx(5.5 / 20, abs=0.03)  # 10 pixels of slack, moved in from 5 more a side
    assert all(starts[left] / 4000 == pytest.approx(1 / 20, abs=0.02) for left in range(1, 10))


def test_flips_come_as_often_as_asked():
    flips = Counter(CropConfig(size=4, flip=0.25).draw(9, 9, key).flip for key in range(2000))
    assert flips[True] / 2000 == pytest.approx(0.25, abs=0.04)


def test_a_small_image_is_enlarged_up_to_the_limit_and_refused_beyond():
    config = CropConfig(size=30, max_upscale=1.5)
    assert config.draw(20, 40, 0).width == 20
    with pytest.raises(TooSmallError, match=r"19 x 40 pixels is too small for crops of 30.*at least 20"):
        config.draw(19, 40, 0)


def test_a_grid_covers_every_pixel_and_ends_flush():
    crops = CropConfig(size=32).grid(70, 100)
    assert len(crops) == 3 * 4 and crops[-1] == Crop(68, 38, 100, 70)
    assert covered(crops, 70, 100).min() == 1
    assert CropConfig(size=32).grid(32, 32) == [Crop(0, 0, 32, 32)]


def test_the_centre_is_the_middle():
    assert CropConfig(size=10, scale=(1.0, 4.0)).center(40, 60) == Crop(20, 10, 40, 30)  # sqrt(1 x 4) x 10 = 20


def test_the_faithful_preprocessing_cuts_after_resizing():
    config = TamingCropConfig(size=256, random=False)
    assert config.center(512, 1024) == Crop(256, 0, 768, 512)  # resized to 256 x 512, cut at column 128
    larger = TamingCropConfig(size=256, resize=296)  # as for coco
    crops = [larger.draw(592, 888, key) for key in range(400)]
    assert {crop.top % 2 for crop in crops} == {0}  # whole pixels of the image of 296 x 444
    assert {crop.width for crop in crops} == {512}
    assert min(c.top for c in crops) == 0 and max(c.top for c in crops) == 80
    assert not any(crop.flip for crop in crops)


def test_windows_of_codes_lie_on_the_grid():
    config = CodeCropConfig(window=(4, 6))
    crops = {config.draw(5, 8, key)[:4] for key in range(200)}
    assert crops == {(left, top, left + 6, top + 4) for left in range(3) for top in range(2)}
    assert covered(config.grid(9, 13), 9, 13).min() == 1
    assert CodeCropConfig(window=(0, 0)).draw(5, 8, 3) == Crop(0, 0, 8, 5)
    with pytest.raises(TooSmallError, match=r"3 x 8 codes is smaller than the window \(4, 6\)"):
        config.draw(3, 8, 0)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: CropConfig(size=0), "size must be at least 1"),
        (lambda: CropConfig(flip=2), r"flip must be in \[0, 1\], got 2"),
        (lambda: CropConfig(scale=(0.1, 1)), "1 / max_upscale"),
        (lambda: CropConfig(scale=(2, 1)), "smallest, largest"),
        (lambda: CropConfig(max_upscale=0.5), "max_upscale must be at least 1"),
        (lambda: TamingCropConfig(size=256, resize=200), "resize must be 0 or at least size = 256, got 200"),
        (lambda: CodeCropConfig(window=(0, 4)), "window must be"),
    ],
)
def test_a_wrong_config_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
