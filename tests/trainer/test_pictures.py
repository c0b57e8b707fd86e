import io

import numpy as np
import pytest
from made_pictures import decoded, encoded, photo
from PIL import Image, ImageOps

from smalti.trainer import pictures
from smalti.trainer.regions import Region


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(20, 33), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(pictures.decode_picture(data), expected)
    measured = pictures.measure(data)
    assert measured == (*expected.shape[:2], orientation)

    upright = Region(3, 5, 14, 17)
    stored = pictures.stored_region(upright, measured.height, measured.width, orientation)
    part = decoded(data)[stored.top : stored.bottom, stored.left : stored.right]
    assert np.array_equal(pictures.oriented(part, orientation), expected[5:17, 3:14])


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_both_decoders_give_the_same_pixels(options, monkeypatch):
    pytest.importorskip("simplejpeg")
    data = encoded(photo(61, 45), "JPEG", quality=80, **options)
    fast = pictures.decode_picture(data)
    monkeypatch.setattr(pictures, "simplejpeg", None)
    assert np.array_equal(pictures.decode_picture(data), fast)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_any_kind_become_rgb(mode):
    picture = Image.fromarray(photo(12, 12)).convert(mode)
    packed = io.BytesIO()
    picture.save(packed, "JPEG" if mode == "CMYK" else "PNG")
    assert pictures.decode_picture(packed.getvalue()).shape == (12, 12, 3)


def test_a_truncated_picture_is_refused():
    data = encoded(photo(64, 64))
    with pytest.raises(OSError, match="truncated"):
        pictures.decode_picture(data[: len(data) // 2])


def test_labels_are_the_numbers_in_the_file():
    labels = np.random.default_rng(0).integers(0, 200, (7, 9), dtype=np.uint8)
    assert np.array_equal(pictures.decode_map(encoded(labels, "PNG")), labels)
    wide = labels.astype(np.uint16) * 300
    assert np.array_equal(pictures.decode_map(encoded(wide, "PNG")), wide)
    colours = Image.fromarray(labels).convert("P")
    colours.putpalette(bytes(range(255, -1, -1)) * 3)
    packed = io.BytesIO()
    colours.save(packed, "PNG")
    assert np.array_equal(pictures.decode_map(packed.getvalue()), labels)
    bits = Image.fromarray(labels > 100)
    packed = io.BytesIO()
    bits.save(packed, "PNG")
    assert np.array_equal(pictures.decode_map(packed.getvalue()), (labels > 100).astype(np.uint8))


def test_a_map_of_colours_is_refused():
    with pytest.raises(ValueError, match="one channel of whole numbers, this one is RGB"):
        pictures.decode_map(encoded(photo(4, 4), "PNG"))


def test_whole_numbers_of_depth_are_scaled_and_others_are_not():
    depth = np.array([[0, 65535], [32768, 1]], np.uint16)
    expected = np.array([[0, 1], [32768 / 65535, 1 / 65535]])
    assert np.allclose(pictures.decode_depth(encoded(depth, "PNG")), expected, atol=1e-7)
    packed = io.BytesIO()
    np.save(packed, np.array([[0.5, 3.25]], np.float64))
    assert pictures.decode_depth(packed.getvalue()).tolist() == [[0.5, 3.25]]
    assert pictures.decode_depth(packed.getvalue()).dtype == np.float32
