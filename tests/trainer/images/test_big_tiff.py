"""A giant TIFF is written in bands and holds, for any other program, the image and what is said of it."""

import io

import numpy as np
import pytest
from PIL import Image

from smalti.trainer.images import big_tiff


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (300, 517), (513, 100)])
@pytest.mark.parametrize("rows", [1, 7, 256, 600])
def test_other_programs_read_the_same_pixels(size, rows):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    big_tiff.write(file, (image[top : top + rows] for top in range(0, size[0], rows)), size, '{"seed": 1}')
    with Image.open(file) as read:
        assert np.array_equal(np.asarray(read), image)
        assert read.tag_v2[270] == '{"seed": 1}'


def test_no_more_than_a_row_of_tiles_is_held(monkeypatch):
    """The bands are taken one after the other, and written before the next row of tiles begins."""
    monkeypatch.setattr(big_tiff, "SIDE", 16)
    file, sizes = io.BytesIO(), []

    def bands():
        for _ in range(16):
            sizes.append(len(file.getvalue()))
            yield np.random.default_rng(0).integers(0, 255, (8, 64, 3), dtype=np.uint8)

    big_tiff.write(file, bands(), (128, 64), "")
    assert all(later > earlier for earlier, later in zip(sizes[:-2:2], sizes[2::2], strict=True))


def test_bands_that_are_not_the_image_are_refused():
    band = np.zeros((5, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="6 rows in all, got 5"):
        big_tiff.write(io.BytesIO(), [band], (6, 4), "")
    with pytest.raises(ValueError, match=r"a band must be \(rows, 7, 3\), got \(5, 4, 3\)"):
        big_tiff.write(io.BytesIO(), [band], (5, 7), "")
