"""Rows put together."""

import numpy as np
import torch

from smalti.trainer.data.collate import collate


def test_pixels_lie_densely_in_a_batch_however_their_rows_lie():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    rows = [each.transpose(2, 0, 1)[..., :: -1 if number % 2 else 1] for number, each in enumerate(pixels)]
    batch = collate([{"key": str(number), "image": row} for number, row in enumerate(rows)])
    assert batch["key"] == ["0", "1", "2", "3"]
    assert batch["image"].is_contiguous()
    assert batch["image"].dtype == torch.uint8
    for number, row in enumerate(rows):
        assert np.array_equal(batch["image"][number], row)


def test_numbers_of_different_types_get_one_that_holds_them_all():
    batch = collate([{"key": "a", "depth": np.float32([1.5])}, {"key": "b", "depth": np.int64([2])}])
    assert batch["depth"].tolist() == [[1.5], [2.0]]
