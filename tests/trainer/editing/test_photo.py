"""What a user gives for an edit, against arrays drawn by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.trainer.editing.photo import read_photo_edit

H, W = 6, 9
COLORS = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def edit_with(folder: Path, mask: Image.Image, **options: object):
    Image.fromarray(COLORS).save(folder / "photo.png")
    Image.fromarray(np.zeros((H, W), np.uint8)).save(folder / "map.png")
    mask.save(folder / "mask.png", **options)
    return read_photo_edit(folder / "photo.png", folder / "map.png", None, folder / "mask.png", lambda _: None)


def drawn() -> np.ndarray:
    return np.add.outer(np.arange(H), np.arange(W)) % 3 == 0


@pytest.mark.parametrize("hidden", [0, 255])
def test_what_is_transparent_in_a_mask_is_not_drawn_whatever_lies_below(tmp_path: Path, hidden: int):
    mask = np.full((H, W, 4), hidden, np.uint8)
    mask[..., 3] = 0
    mask[drawn()] = (255, 255, 255, 255)
    assert np.array_equal(edit_with(tmp_path, Image.fromarray(mask)).masked, drawn())


@pytest.mark.parametrize("color", [(0, 0, 1), (1, 0, 0), (0, 3, 0)])
def test_a_dark_color_is_not_black(tmp_path: Path, color: tuple[int, int, int]):
    mask = np.where(drawn()[..., None], np.uint8(color), np.uint8(0))
    assert np.array_equal(edit_with(tmp_path, Image.fromarray(mask)).masked, drawn())


def test_masks_of_bits_16_bits_and_palettes_are_read(tmp_path: Path):
    bits = Image.fromarray(drawn())
    wide = Image.fromarray(np.where(drawn(), 65535, 0).astype(np.uint16))
    palette = Image.fromarray(np.where(drawn(), 0, 1).astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    for mask in (bits, wide, palette):
        assert np.array_equal(edit_with(tmp_path, mask).masked, drawn())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_photo_with_transparency_is_turned_once(tmp_path: Path, kind: str, orientation: int):
    exif = Image.Exif()
    exif[274] = orientation
    whole = np.dstack((COLORS, COLORS[..., 0]))
    Image.fromarray(whole).save(tmp_path / f"photo.{kind}", exif=exif)
    turned = {
        1: whole, 2: whole[:, ::-1], 3: whole[::-1, ::-1], 4: whole[::-1], 5: whole.swapaxes(0, 1),
        6: np.rot90(whole, -1), 7: np.rot90(whole, 2).swapaxes(0, 1), 8: np.rot90(whole),
    }[orientation]  # fmt: skip
    Image.fromarray(np.zeros(turned.shape[:2], np.uint8)).save(tmp_path / "map.png")
    photo = read_photo_edit(
        tmp_path / f"photo.{kind}", tmp_path / "map.png", tmp_path / "map.png", None, lambda _: None
    ).photo
    assert photo.alpha is not None
    assert np.array_equal(photo.colors, turned[..., :3]) and np.array_equal(photo.alpha, turned[..., 3])
