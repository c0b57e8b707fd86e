"""From the bytes of images to their pixels."""

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from fixtures.shards import decoded, encoded, photo
from PIL import Image, ImageOps

from smalti.trainer.images import decode
from smalti.trainer.images.geometry import Region


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(20, 33), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(decode.decode_image(data), expected)
    measured = decode.measure(data)
    assert measured == (*expected.shape[:2], orientation)

    upright = Region(3, 5, 14, 17)
    stored = decode.stored_region(upright, measured.height, measured.width, orientation)
    part = decoded(data)[stored.top : stored.bottom, stored.left : stored.right]
    assert np.array_equal(decode.oriented(part, orientation), expected[5:17, 3:14])


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_both_decoders_give_the_same_pixels(options, monkeypatch):
    pytest.importorskip("simplejpeg")
    data = encoded(photo(61, 45), "JPEG", quality=80, **options)
    fast = decode.decode_image(data)
    monkeypatch.setattr(decode, "simplejpeg", None)
    assert np.array_equal(decode.decode_image(data), fast)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_kind_become_rgb(mode):
    image = Image.fromarray(photo(12, 12)).convert(mode)
    packed = io.BytesIO()
    image.save(packed, "JPEG" if mode == "CMYK" else "PNG")
    assert decode.decode_image(packed.getvalue()).shape == (12, 12, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled_and_rounded(kind):
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1040, (4, 1))
    expected = np.round(ramp / 257).astype(np.uint8)
    assert np.array_equal(decode.decode_image(encoded(ramp, kind)), np.stack([expected] * 3, axis=2))


def test_numbers_without_a_known_white_are_refused():
    for numbers in (np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000, np.int32)):
        with pytest.raises(ValueError, match="8 or 16 bits"):
            decode.decode_image(encoded(numbers, "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_are_composed_over_white(kind):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., :3] = (255, 0, 255)
    pixels[4:, :, 3] = 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    shown = decode.decode_image(encoded(pixels, kind, **options))
    assert (shown[:4] == 255).all()
    assert (shown[4:] == (255, 0, 255)).all()


def test_a_transparent_palette_entry_and_gray_with_alpha_are_composed_over_white():
    palette = Image.fromarray(np.repeat(np.uint8([[0, 1]]), 2, axis=0), "L").convert("P")
    palette.putpalette([9, 9, 9, 40, 50, 60])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    assert decode.decode_image(file.getvalue())[0].tolist() == [[255, 255, 255], [40, 50, 60]]
    gray = encoded(np.uint8([[[7, 0], [7, 255]]]), "PNG")
    assert decode.decode_image(gray)[0].tolist() == [[255, 255, 255], [7, 7, 7]]


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_exactly_once(kind, orientation):
    stored = photo(20, 33)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright = decode.oriented(stored, orientation)
    assert decode.measure(data)[:2] == upright.shape[:2]
    assert np.array_equal(decode.decode_image(data), upright)


def test_a_truncated_image_is_refused():
    data = encoded(photo(64, 64))
    with pytest.raises(OSError, match="truncated"):
        decode.decode_image(data[: len(data) // 2])


def test_labels_are_the_numbers_in_the_file():
    labels = np.random.default_rng(0).integers(0, 200, (7, 9), dtype=np.uint8)
    assert np.array_equal(decode.decode_map(encoded(labels, "PNG")), labels)
    wide = labels.astype(np.uint16) * 300
    assert np.array_equal(decode.decode_map(encoded(wide, "PNG")), wide)
    colors = Image.fromarray(labels).convert("P")
    colors.putpalette(bytes(range(255, -1, -1)) * 3)
    packed = io.BytesIO()
    colors.save(packed, "PNG")
    assert np.array_equal(decode.decode_map(packed.getvalue()), labels)
    bits = Image.fromarray(labels > 100)
    packed = io.BytesIO()
    bits.save(packed, "PNG")
    assert np.array_equal(decode.decode_map(packed.getvalue()), (labels > 100).astype(np.uint8))


def test_a_map_of_colours_is_refused():
    with pytest.raises(ValueError, match="one channel of whole numbers, this one is RGB"):
        decode.decode_map(encoded(photo(4, 4), "PNG"))


def test_whole_numbers_of_depth_are_scaled_and_others_are_not():
    depth = np.array([[0, 65535], [32768, 1]], np.uint16)
    expected = np.array([[0, 1], [32768 / 65535, 1 / 65535]])
    assert np.allclose(decode.decode_depth(encoded(depth, "PNG")), expected, atol=1e-7)
    packed = io.BytesIO()
    np.save(packed, np.array([[0.5, 3.25]], np.float64))
    assert decode.decode_depth(packed.getvalue()).tolist() == [[0.5, 3.25]]
    assert decode.decode_depth(packed.getvalue()).dtype == np.float32


def png_of_claimed(width: int, height: int) -> bytes:
    """A small PNG whose header claims a size."""
    data = bytearray(encoded(photo(8, 8), "PNG"))
    struct.pack_into(">II", data, 16, width, height)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
HOSTILE = {
    "postscript": POSTSCRIPT,
    "postscript in a DOS header": b"\xc5\xd0\xd3\xc6"
    + struct.pack("<IIIIII", 32, len(POSTSCRIPT), 0, 0, 0, 0)
    + POSTSCRIPT,
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(40),
    "icns": b"icns\0\0\0\x08",
    "fits": b"SIMPLE  =                    T",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "empty": b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("read", [decode.measure, decode.decode_image, decode.decode_map, decode.decode_depth])
def test_only_listed_decoders_see_the_bytes(kind, read, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(OSError, match="not an image of a format that is read") as caught:
        read(HOSTILE[kind])
    assert "0x" not in str(caught.value)


def test_an_image_above_the_limit_of_pillow_is_measured_and_decoded():
    whole = np.zeros((9_000, 20_000), bool)  # 180 megapixels
    data = encoded(whole, "PNG")
    assert decode.measure(data)[:2] == (9_000, 20_000)
    assert decode.decode_map(data).shape == (9_000, 20_000)


@pytest.mark.parametrize(
    ("size", "said"), [((70_000, 70_000), "cut or scale it"), ((30_000, 30_000), "damaged or a bomb")]
)
def test_an_image_that_would_take_all_memory_is_refused_before_it_is_decoded(size, said):
    with pytest.raises(ValueError, match=said):
        decode.decode_image(png_of_claimed(*size))
