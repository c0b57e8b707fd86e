"""Photos to complete, as users have them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.trainer.sampling import request


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_photo_of_16_bit_gray_is_no_white_page(tmp_path: Path, suffix: str):
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1040, (8, 1))
    Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
    photo = np.asarray(request.read_photo(tmp_path / f"ramp.{suffix}"))
    assert np.array_equal(photo[0, :, 0], np.round(np.arange(64) * 1040 / 257)) and (photo[..., 3] == 255).all()


def test_a_photo_keeps_its_transparency_and_is_turned_upright(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(request.read_photo(tmp_path / "photo.png")), np.rot90(pixels, -1))
