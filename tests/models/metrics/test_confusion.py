"""Scores of label maps, counted by hand."""

import math

import pytest
import torch

from smalti.models.metrics.confusion import confusion, mean_iou, pixel_accuracy


def test_scores_of_a_map_that_can_be_counted():
    real = torch.tensor([[[0, 0, 1], [1, 2, 255]]])
    found = torch.tensor([[[0, 1, 1], [1, 1, 0]]])
    counts = confusion(real, found, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert pixel_accuracy(counts) == 3 / 5
    # 0: 1 of 2 places; 1: 2 of 4; 2: none of 1; 3 is nowhere and does not count.
    assert mean_iou(counts) == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)


def test_counts_of_parts_add_up():
    draws = torch.Generator().manual_seed(0)
    real, found = torch.randint(0, 5, (2, 4, 6, 6), generator=draws)
    assert torch.equal(
        confusion(real, found, 5), sum(confusion(real[i : i + 1], found[i : i + 1], 5) for i in range(4))
    )


def test_no_places_have_no_score():
    nothing = torch.zeros(3, 3, dtype=torch.int64)
    assert math.isnan(mean_iou(nothing)) and math.isnan(pixel_accuracy(nothing))
