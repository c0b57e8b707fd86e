"""Small arrays of a run come back as they were written, and the means of a grid are those of all that counts."""

import json
import math
from pathlib import Path

import numpy as np
import processes
import pytest
import torch

from smalti.trainer.distributed import ranks
from smalti.trainer.jobs import side_files
from smalti.trainer.training import arrays
from smalti.trainer.training.arrays import FILE, GridMeans, StepArray
from smalti.trainer.training.metrics import Metrics


def write(run: Path, *steps: int) -> Metrics:
    writer = Metrics(run, 100, None, {})
    for step in steps:
        writer.write_arrays(step, {"code_use": torch.tensor([1.0, step, math.nan])})
    return writer


def test_an_array_is_a_line_that_is_read_back(tmp_path: Path):
    write(tmp_path, 10).write_arrays(20, {"nll_by_position": torch.tensor([[1.23456, 2.0], [3.0, 4.0]])})
    first, second = arrays.read(tmp_path)
    assert (first.step, first.name, first.shape, first.values[:2]) == (10, "code_use", (3,), [1.0, 10.0])
    assert math.isnan(first.values[2])
    assert second == StepArray(20, "nll_by_position", (2, 2), [1.235, 2.0, 3.0, 4.0])
    assert side_files.is_free(tmp_path / FILE)


def test_arrays_are_rewound_with_the_run(tmp_path: Path):
    write(tmp_path, 10, 20, 30).rewind(20)
    assert [array.step for array in arrays.read(tmp_path)] == [10, 20]
    write(tmp_path).rewind(0)
    assert arrays.read(tmp_path) == []


def test_lines_that_are_no_arrays_are_left_out(tmp_path: Path):
    good = {"step": 1, "name": "n", "shape": [2], "values": [1, None]}
    wrong = [
        {"shape": [3]}, {"shape": [-2]}, {"shape": "2"}, {"name": 3}, {"values": ["1", "2"]}, {"values": [True, 1]},
        {"step": "1"}, {"shape": [10**9], "values": []}, {"shape": [2000], "values": [0] * 2000}, {"values": None},
    ]  # fmt: skip
    text = "".join(json.dumps(good | change) + "\n" for change in [*wrong, {}])
    (tmp_path / FILE).write_text(text + "nonsense\n" + json.dumps(good))
    assert [array.shape for array in arrays.read(tmp_path)] == [(2,)]
    assert arrays.read(tmp_path / "nowhere") == []


def grid_means() -> torch.Tensor:
    """On rank r: a batch of 2 grids of 40 x 8, of which the second does not count on rank 1; and an empty batch."""
    values = torch.arange(2 * 40 * 8, dtype=torch.float32).view(2, 40, 8) + 1000 * ranks.rank()
    counted = torch.tensor([True, ranks.rank() == 0])[:, None, None].expand_as(values).clone()
    counted[:, 39, 7] = False
    means = GridMeans()
    means.add(values, counted)
    means.add(values[:0])
    return means.means()


@pytest.mark.parametrize("world", [1, 2])
def test_a_grid_has_the_means_of_what_counts_and_at_most_so_many_cells(world: int):
    every = [np.arange(2 * 40 * 8, dtype=float).reshape(2, 40, 8) + 1000 * rank for rank in range(world)]
    grids = np.stack([*every[0], *(second[0] for second in every[1:])])
    for found in processes.run(grid_means, world):
        assert found.shape == (32, 8)
        assert np.allclose(found[0], grids[:, :2].mean((0, 1)))  # 40 rows in 32 cells: the first has rows 0 and 1
        assert np.allclose(found[-1, 7], grids[:, 38, 7].mean())  # row 39 has nothing that counts in that column


def test_a_grid_is_shown_from_black_to_white():
    shown = arrays.gray_levels(torch.tensor([[1.0, 3.0], [2.0, math.nan]]), cell=2)
    assert shown.tolist() == [[0, 0, 255, 255]] * 2 + [[127, 127, 0, 0]] * 2
    assert (arrays.gray_levels(torch.full((2, 2), math.nan)) == 0).all()
