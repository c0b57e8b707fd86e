"""Masks of training: connected parts of the label map, drawn by key."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from smalti.trainer.data.inputs import sample_seeds
from smalti.trainer.data.masks import MaskConfig, draw_mask, draw_masks

LABELS = np.zeros((40, 60), np.uint8)
LABELS[10:20, 5:15] = 1
LABELS[25:35, 40:55] = 1  # a second part of the same class
LABELS[30:, :10] = 2


def test_a_mask_is_one_connected_part_of_a_class_grown_by_as_many_pixels():
    parts = [LABELS == 0, LABELS == 2, (LABELS == 1) & (np.arange(60) < 30), (LABELS == 1) & (np.arange(60) > 30)]
    grown = [ndimage.binary_dilation(part, np.ones((5, 5))) for part in parts]
    drawn = [draw_mask(LABELS, key, MaskConfig(largest=1.0, grow=2)) for key in range(40)]
    found = {number for mask in drawn for number, part in enumerate(grown) if np.array_equal(mask, part)}
    assert all(any(np.array_equal(mask, part) for part in grown) for mask in drawn) and found == {0, 1, 2, 3}


def test_a_larger_mask_loses_halves_until_it_is_small_enough_and_is_never_empty():
    for key in range(60):
        for largest in (0.6, 0.1, 0.001, 1e-9):
            mask = draw_mask(LABELS, key, MaskConfig(largest=largest, grow=1))
            assert 1 <= mask.sum() <= max(largest * mask.size, 1)
    assert draw_mask(np.zeros((1, 1), np.uint8), 0, MaskConfig()).all()


def test_boxes_take_the_place_of_parts():
    round_part = np.hypot(*np.indices((40, 60)) - np.array([20, 30])[:, None, None]) < 12
    boxes = [draw_mask(round_part.astype(np.uint8), key, MaskConfig(1.0, 0, boxes=1.0)) for key in range(20)]
    disk = next(mask for mask in boxes if not mask.all())
    assert np.array_equal(disk, round_part | (np.abs(np.indices((40, 60)) - [[[20]], [[30]]]) < 12).all(0))


def test_a_sample_has_its_mask_by_its_seed_whatever_stands_beside_it():
    maps = torch.from_numpy(np.stack([LABELS, LABELS[::-1].copy(), LABELS[:, ::-1].copy()]))
    together = draw_masks(maps, [5, 6, 7], MaskConfig())
    assert together.dtype == torch.bool and together.shape == maps.shape
    for place, seed in enumerate([5, 6, 7]):
        assert torch.equal(draw_masks(maps[place : place + 1], [seed], MaskConfig())[0], together[place])
    assert any(not torch.equal(together[0], draw_masks(maps[:1], [seed], MaskConfig())[0]) for seed in range(9))


def test_shares_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="largest"):
        MaskConfig(largest=0.0)


def test_rows_that_were_lent_without_keys_have_seeds_too():
    batch = {"image": torch.zeros(2, 3, 4, 4), "key": ["a", "b"]}
    one, two = sample_seeds(batch, 7, 3)
    assert one != two and sample_seeds({"image": torch.zeros(1, 3, 4, 4), "key": ["b"]}, 7, 3) == [two]
    assert sample_seeds(batch, 7, 4) != [one, two]
    assert len(sample_seeds({"image": torch.zeros(2, 3, 4, 4), "key": []}, 7)) == 2
