"""Tables of a sample's plan: each forward finds its own row, and lanes belong to images and rows."""

import numpy as np
import torch

from smalti.models.priors.decoders.step_table import Entries, LaneMap, StepTable


def test_every_forward_takes_the_next_row_and_lanes_without_an_entry_read_the_idle_numbers():
    entries = Entries(np.array([7, 2, 7]), np.array([2, 0, 1]), np.array([[10, 20, 30], [11, 21, 31]]))
    table = StepTable(entries, 3, np.array([-1, -2]), torch.device("cpu"))
    assert table.forwards.tolist() == [2, 7]
    assert table.take().tolist() == [[20, -1, -1], [21, -2, -2]]
    assert table.take().tolist() == [[-1, 30, 10], [-2, 31, 11]]
    assert entries.used() == slice(0, 3) and entries.chosen(np.array([True, False, True])).used() == slice(1, 3)


def test_a_lane_belongs_to_an_images_number_and_a_row_whatever_else_there_is():
    numbers, rows = [3, 0, (1 << 60) + 5], np.array([0, 1, 2, 1])
    forwards, lanes = LaneMap(numbers, 3, 4).of(rows)
    for image, number in enumerate(numbers):
        assert lanes[:, image].tolist() == [(3 * number + row) % 4 for row in rows.tolist()]
        alone = LaneMap([number], 3, 4)
        assert alone.of(rows)[1][:, 0].tolist() == lanes[:, image].tolist()
        assert alone.forwards == len({(3 * number + row) // 4 for row in range(3)})
    assert sorted(set(forwards.flatten().tolist())) == list(range(LaneMap(numbers, 3, 4).forwards))
