"""Regions of JPEG files, read without the rest."""

import io
import sys

import numpy as np
import pytest
from fixtures.shards import decoded, encoded, photo
from PIL import Image

from smalti.trainer.files import ChecksumError
from smalti.trainer.images import seekable_jpeg
from smalti.trainer.images.geometry import Region

SIZES = [(96, 160), (97, 161), (130, 75)]


class Reader:
    """Reads from bytes in memory, and counts them."""

    def __init__(self, data):
        self.data = data
        self.read = 0

    def __call__(self, ranges):
        self.read += sum(size for _, size in ranges)
        return [self.data[offset : offset + size] for offset, size in ranges]


def seekable_by_pillow(height, width, **options):
    """A JPEG with a restart after every MCU, which always divides a row."""
    return encoded(photo(height, width), "JPEG", quality=90, restart_marker_blocks=1, **options)


def regions(height, width, count, seed=0):
    draws = np.random.default_rng(seed)
    for _ in range(count):
        left, right = sorted(draws.choice(width + 1, 2, replace=False).tolist())
        top, bottom = sorted(draws.choice(height + 1, 2, replace=False).tolist())
        yield Region(left, top, right, bottom)


def cut(layout, reader, region):
    spliced = seekable_jpeg.splice(layout, reader, region)
    top, left = region.top - spliced.shows.top, region.left - spliced.shows.left
    return decoded(spliced.data)[top : top + region.height, left : left + region.width]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_any_region_is_bit_equal_to_that_of_the_whole(height, width, subsampling):
    data = seekable_by_pillow(height, width, subsampling=subsampling)
    layout, whole = seekable_jpeg.layout_of(data), decoded(data)
    assert layout is not None
    for region in regions(height, width, 25):
        expected = whole[region.top : region.bottom, region.left : region.right]
        assert np.array_equal(cut(layout, Reader(data), region), expected), region


def test_grey_images_have_parts_too():
    packed = io.BytesIO()
    Image.fromarray(photo(70, 91)).convert("L").save(packed, "JPEG", restart_marker_blocks=4)
    data = packed.getvalue()
    layout, whole = seekable_jpeg.layout_of(data), decoded(data)
    for region in regions(70, 91, 20):
        expected = whole[region.top : region.bottom, region.left : region.right]
        assert np.array_equal(cut(layout, Reader(data), region), expected)


def test_a_region_costs_only_the_segments_that_it_touches():
    data = seekable_by_pillow(640, 640, subsampling=2)
    reader = Reader(data)
    cut(seekable_jpeg.layout_of(data), reader, Region(300, 300, 364, 364))
    assert reader.read < len(data) / 40  # 6 x 6 of 40 x 40 MCUs


def test_a_layout_survives_being_stored():
    data = seekable_by_pillow(64, 96)
    layout = seekable_jpeg.layout_of(data)
    again = seekable_jpeg.JpegLayout.from_bytes(layout.to_bytes())
    assert again.header == layout.header and again.interval == layout.interval
    assert np.array_equal(cut(again, Reader(data), Region(5, 6, 50, 40)), decoded(data)[6:40, 5:50])


def test_damage_is_found_in_the_part_that_is_read_and_only_there():
    data = seekable_by_pillow(96, 160)
    layout = seekable_jpeg.layout_of(data)
    damaged = bytearray(data)
    damaged[int(layout.starts[1]) - 3] ^= 1  # before the marker
    with pytest.raises(ChecksumError, match="segment 0 at byte"):
        cut(layout, Reader(bytes(damaged)), Region(0, 0, 8, 8))
    cut(layout, Reader(bytes(damaged)), Region(100, 60, 140, 90))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True, "restart_marker_blocks": 1}, {"restart_marker_blocks": 3}]
)
def test_files_whose_parts_cannot_be_had_have_no_layout(options):
    assert (
        seekable_jpeg.layout_of(encoded(photo(64, 160), "JPEG", **options)) is None
    )  # 10 MCUs a row: 3 does not divide them


def test_what_is_no_jpeg_or_cut_off_has_no_layout():
    data = seekable_by_pillow(64, 64)
    assert seekable_jpeg.layout_of(b"") is None
    assert seekable_jpeg.layout_of(encoded(photo(8, 8), "PNG")) is None
    assert all(seekable_jpeg.layout_of(data[:length]) is None for length in range(0, len(data) - 2, 7))


@pytest.mark.parametrize("mcus", [1, 7, 8, 131, 250, 252, 262, 375])
def test_intervals_divide_a_row(mcus):
    interval = seekable_jpeg._interval(mcus)
    assert mcus % interval == 0
    assert interval >= min(mcus, 6)
    assert {252: 7, 250: 10, 375: 15, 262: 131, 131: 131}.get(mcus, interval) == interval


@pytest.mark.parametrize(
    ("side", "options"),
    [
        ((300, 420), {"subsampling": 0}),
        ((301, 419), {"subsampling": 1}),
        ((300, 420), {"subsampling": 2}),
        ((257, 333), {"subsampling": "4:1:1"}),
        ((299, 421), {"progressive": True}),
        ((128, 16), {"progressive": True, "subsampling": 0}),
        ((9, 300), {"restart_marker_blocks": 3}),
        ((300, 9), {"optimize": True, "quality": 100}),
    ],
)
def test_rewriting_keeps_every_pixel(side, options):
    original = encoded(photo(*side), "JPEG", **{"quality": 85, **options})
    rewritten = seekable_jpeg.seekable(original)
    assert rewritten is not None and np.array_equal(decoded(rewritten), decoded(original))
    layout = seekable_jpeg.layout_of(rewritten)
    assert layout is not None
    for region in regions(*side, 5):
        expected = decoded(original)[region.top : region.bottom, region.left : region.right]
        assert np.array_equal(cut(layout, Reader(rewritten), region), expected)


def test_gray_is_rewritten_and_what_libjpeg_refuses_or_doubts_is_not():
    gray = encoded(photo(200, 300)[..., 0], "JPEG")
    assert np.array_equal(decoded(seekable_jpeg.seekable(gray)), decoded(gray))
    sound = encoded(photo(200, 300), "JPEG")
    assert seekable_jpeg.seekable(sound[:-500]) is None  # a warning: the end is missing
    broken = bytearray(sound)
    broken[sound.index(b"\xff\xc4") + 5] = 255  # a table of codes that cannot be
    assert seekable_jpeg.seekable(bytes(broken)) is None
    assert seekable_jpeg.seekable(b"\xff\xd8\xff") is None


def test_the_orientation_can_be_put_back_for_other_programs():
    data = seekable_by_pillow(32, 48)
    turned = seekable_jpeg.with_orientation(data, 6)
    with Image.open(io.BytesIO(turned)) as image:
        assert image.getexif()[0x0112] == 6
    assert np.array_equal(decoded(turned), decoded(data))
    assert seekable_jpeg.layout_of(turned) is not None


@pytest.mark.parametrize("path", [None, "/nowhere/libjpeg.so", sys.modules["_ctypes"].__file__])
def test_without_a_libjpeg_of_the_known_interface_files_are_left_alone(monkeypatch, path):
    monkeypatch.setattr(seekable_jpeg, "library", lambda: path)
    assert seekable_jpeg.seekable(encoded(photo(32, 32))) is None


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"restart_marker_blocks": 3}])
def test_a_file_can_be_made_to_end_early_with_the_same_rows(options):
    data = encoded(photo(160, 96), "JPEG", quality=90, **options)
    for rows in (1, 14, 16, 30, 100):
        short = decoded(seekable_jpeg.shortened(data, rows))
        assert rows + 2 <= len(short) <= rows + 18
        assert np.array_equal(short[:rows], decoded(data)[:rows])


def test_what_must_be_decoded_whole_is_not_shortened():
    assert seekable_jpeg.shortened(encoded(photo(64, 64), "JPEG", progressive=True), 10) is None
    assert seekable_jpeg.shortened(encoded(photo(64, 64), "PNG"), 10) is None
    data = encoded(photo(64, 64))
    assert seekable_jpeg.shortened(data, 60) is None
    assert seekable_jpeg.shortened(data[:-40], 10) is None
