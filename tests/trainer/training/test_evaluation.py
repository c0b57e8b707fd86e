"""Validation figures count every sample once, whatever the ranks, and are what their definitions say."""

import math
from typing import Any

import processes
import pytest
import torch

from smalti.trainer.distributed import ranks
from smalti.trainer.training.evaluation import MetricSums, equal_length_batches, likelihood, psnr


def test_psnr_of_a_known_error():
    real = torch.zeros(2, 3, 8, 8)
    rebuilt = real.clone()
    rebuilt[1] += 10 / 127.5  # ten gray levels
    values = psnr(real, rebuilt)
    assert values[1].item() == pytest.approx(10 * math.log10(255**2 / 100), abs=1e-9)
    assert values[0].item() == pytest.approx(10 * math.log10(255**2 / 0.5), abs=1e-9)  # equal images are finite


def test_psnr_clamps_and_rounds_as_a_file_does():
    white = torch.ones(1, 3, 4, 4)
    assert torch.equal(psnr(white, white * 5), psnr(white, white))
    assert torch.equal(psnr(white, white - 0.4 / 127.5), psnr(white, white))


def test_sums_are_means_over_things_and_not_over_batches():
    sums = MetricSums()
    sums.add("x", torch.tensor([1.0, 2.0, 3.0]))
    sums.add("x", torch.tensor([10.0]))
    sums.add("y", torch.tensor([[5.0, 7.0]]))
    assert sums.means() == {"x": 4.0, "y": 6.0}


def test_likelihood_of_a_prior_that_knows_nothing():
    figures = likelihood(math.log(1024), 1024)
    assert figures == pytest.approx(
        {"nll": math.log(1024), "bits_per_code": 10.0, "perplexity": 1024.0, "normalized_nll": 1.0}
    )


def seen_by_ranks() -> dict[str, Any]:
    """Rank 0 has three batches, rank 1 one; both forward equally often, as a partitioned network asks."""
    mine: list[Any] = [{"key": ["some"], "x": torch.tensor(x)} for x in ([1.0, 2.0], [3.0], [4.0])]
    mine = mine if ranks.rank() == 0 else [{"key": ["one"], "x": torch.tensor([50.0])}]
    sums, turns = MetricSums(), 0
    for batch, counts in equal_length_batches(mine):
        turns += 1
        ranks.all_reduce_sum_(torch.zeros(1))  # what a gather of weights would be
        if counts:
            sums.add("x", batch["x"])
    try:
        list(equal_length_batches([] if ranks.rank() == 1 else mine))
        refused = ""
    except ValueError as error:
        refused = str(error)
    company = [
        counts for _, counts in equal_length_batches(mine[:1] if ranks.rank() == 0 else [{**mine[0], "key": []}])
    ]
    assert company == [ranks.rank() == 0]
    return {"turns": turns, **sums.means(), "refused": refused}


def test_ranks_with_fewer_batches_go_along_without_counting_twice():
    for result in processes.run(seen_by_ranks, 2):
        assert "fewer validation samples that can be used than the 2 ranks" in result.pop("refused")
        assert result == {"turns": 3, "x": (1 + 2 + 3 + 4 + 50) / 5}
