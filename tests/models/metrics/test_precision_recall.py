"""Precision and recall on sets that can be counted by hand."""

import numpy as np
import pytest
import torch

from smalti.models.metrics import precision_recall as module
from smalti.models.metrics.precision_recall import precision_recall


def line(*places: float) -> torch.Tensor:
    return torch.tensor(places)[:, None].double()


def test_sets_on_a_line():
    # Of the real ones, 0 1 2 10, the second nearest others are 2 1 2 9 away; of the made ones, 0.5 1.5 30 31: 29.5 ...
    found = precision_recall(line(0, 1, 2, 10), line(0.5, 1.5, 30, 31), neighbors=2)
    assert found.precision == 2 / 4  # 30 and 31 are 20 and 21 from 10, whose radius is 9
    assert found.recall == 1.0  # 10 is within 29.5 of 0.5


def test_equal_sets_are_within_each_other_and_distant_ones_are_not():
    draws = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    assert precision_recall(draws, draws) == (1.0, 1.0)
    assert precision_recall(draws, draws + 1000) == (0.0, 0.0)


def test_one_mode_of_two_is_precise_and_recalls_a_half():
    draws = torch.Generator().manual_seed(1)
    one, other, made = (torch.randn(50, 3, generator=draws).double() for _ in range(3))
    found = precision_recall(torch.cat([one, other + 100]), made)
    assert found.precision > 0.8 and 0.4 < found.recall <= 0.5


def test_it_is_the_definition_whatever_the_rows_at_once(monkeypatch):
    draws = np.random.default_rng(2)
    real, made = draws.normal(size=(30, 3)), draws.normal(size=(25, 3)) * 1.5

    def share(samples: np.ndarray, members: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(members - member, axis=1))[3] for member in members]
        return float(np.mean([any(np.linalg.norm(members - sample, axis=1) <= radii) for sample in samples]))

    for rows in (1024, 7):
        monkeypatch.setattr(module, "ROWS", rows)
        found = precision_recall(torch.from_numpy(real), torch.from_numpy(made))
        assert found == (share(made, real), share(real, made))


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="more than 3 samples of each kind, got 3 real and 9 made"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))
