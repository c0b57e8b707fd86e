"""Regions of tiled TIFF files, read without the rest."""

import io

import numpy as np
import pytest
from PIL import Image

from smalti.trainer.files import ChecksumError
from smalti.trainer.images import tiled_tiff
from smalti.trainer.images.geometry import Region


def numbers(kind, height=300, width=421):
    draws = np.random.default_rng(0)
    values = draws.normal(size=(height, width)) if kind == "<f4" else draws.integers(0, 200, (height, width))
    return values.astype(kind)


def reader(data):
    return lambda ranges: [data[offset : offset + size] for offset, size in ranges]


@pytest.mark.parametrize("kind", tiled_tiff.TYPES)
def test_other_programs_read_the_same_numbers(kind):
    data, _ = tiled_tiff.tiled(numbers(kind))
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), numbers(kind))


@pytest.mark.parametrize("kind", tiled_tiff.TYPES)
def test_any_region_is_that_of_the_whole(kind):
    whole = numbers(kind)
    data, layout = tiled_tiff.tiled(whole)
    layout = tiled_tiff.TileLayout.from_bytes(layout.to_bytes())
    for left, top, right, bottom in [(0, 0, 1, 1), (0, 0, 421, 300), (127, 127, 129, 129), (300, 200, 421, 300)]:
        cut = tiled_tiff.cut(layout, reader(data), Region(left, top, right, bottom))
        assert np.array_equal(cut, whole[top:bottom, left:right])


def test_a_region_costs_only_the_tiles_that_it_touches():
    data, layout = tiled_tiff.tiled(numbers("|u1"))
    asked = []

    def counting(ranges):
        asked.extend(ranges)
        return reader(data)(ranges)

    tiled_tiff.cut(layout, counting, Region(130, 130, 250, 140))
    assert len(asked) == 1


def test_damage_is_found():
    data, layout = tiled_tiff.tiled(numbers("|u1"))
    damaged = bytearray(data)
    damaged[20] ^= 1
    with pytest.raises(ChecksumError, match="tile 0 at byte 8"):
        tiled_tiff.cut(layout, reader(bytes(damaged)), Region(0, 0, 5, 5))
    tiled_tiff.cut(layout, reader(bytes(damaged)), Region(200, 200, 205, 205))
