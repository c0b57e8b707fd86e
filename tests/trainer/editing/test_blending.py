"""What was made comes into the photo inside of the edit alone."""

import numpy as np
import pytest

from smalti.trainer.editing.blending import composited, presence

SIZE = (70, 90)


def images() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, (*SIZE, 3), dtype=np.uint8), draws.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def masks() -> dict[str, np.ndarray]:
    empty = np.zeros(SIZE, bool)
    found = {"nothing": empty, "everything": ~empty, "pixel": empty.copy(), "blob": empty.copy(), "edge": empty.copy()}
    found["pixel"][33, 44] = True
    found["blob"][20:50, 30:70] = True
    found["blob"][60, 5:8] = True
    found["edge"][:, :30] = True
    return found


@pytest.mark.parametrize("feather", [0.0, 1.0, 8.0, 1000.0])
@pytest.mark.parametrize("name", list(masks()))
def test_no_pixel_outside_the_mask_changes_and_what_the_photo_shows_inside_counts_nowhere(name: str, feather: float):
    (photo, made), masked = images(), masks()[name]
    before = made.copy()
    result = composited(photo, made, masked, feather)
    assert np.array_equal(result[~masked], photo[~masked]) and np.array_equal(made, before)
    other = np.where(masked[..., None], 255 - photo, photo)
    assert np.array_equal(composited(other, made, masked, feather), result)
    if feather == 0 or name == "everything":
        assert np.array_equal(result[masked], made[masked])


def test_a_feather_hides_a_difference_of_brightness_at_the_border_and_leaves_the_middle():
    masked = np.zeros((200, 200), bool)
    masked[50:150, 50:150] = True
    photo, made = np.full((200, 200, 3), 100, np.uint8), np.full((200, 200, 3), 160, np.uint8)
    hard, soft = (composited(photo, made, masked, feather).astype(int) for feather in (0.0, 30.0))
    assert abs(hard[100, 50, 0] - hard[100, 49, 0]) == 60
    assert abs(soft[100, 50, 0] - soft[100, 49, 0]) < 30 and soft[100, 100, 0] > 150
    assert np.abs(np.diff(soft[100, 50:100, 0])).max() < 10


def test_what_was_made_shows_wholly_somewhere_in_every_part_of_a_mask():
    share = presence(masks()["blob"], 12.0)
    assert share[35, 50] == share[60, 6] == 1 and share[20, 30] == pytest.approx(1 / 12)
    assert (share[~masks()["blob"]] == 0).all()
    assert presence(masks()["edge"], 4.0)[0, 0] == 1  # the image's own border fades nothing
