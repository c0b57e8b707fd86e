"""Validation figures count every sample once, whatever the ranks, and are what their definitions say."""

import math
from typing import Any

import processes
import pytest
import torch

from smalti.trainer.distributed import ranks
from smalti.trainer.training.evaluation import MetricSums, equal_length_batches, first_batch, likelihood, psnr


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
    company = [
        counts for _, counts in equal_length_batches(mine[:1] if ranks.rank() == 0 else [{**mine[0], "key": []}])
    ]
    assert company == [ranks.rank() == 0]
    return {"turns": turns, **sums.means()}


def test_ranks_with_fewer_batches_go_along_without_counting_twice():
    assert processes.run(seen_by_ranks, 2) == [{"turns": 3, "x": (1 + 2 + 3 + 4 + 50) / 5}] * 2


def seen_by_a_rank_with_nothing(with_samples: int) -> dict[str, Any]:
    """One rank has two batches, the other none, not even for company, as where its only sample is damaged."""
    mine: list[Any] = [{"key": ["some"], "x": torch.tensor(x)} for x in ([1.0, 2.0], [6.0])]
    mine = mine if ranks.rank() == with_samples else []
    sums, turns = MetricSums(), 0
    for batch, counts in equal_length_batches(mine):
        turns += 1
        ranks.all_reduce_sum_(batch["x"].sum())  # every rank has something to forward
        if counts:
            sums.add("x", batch["x"])
            sums.add("of no place", batch["x"][:0])
    return {"turns": turns, "first": first_batch(mine)["x"].tolist(), **sums.means()}


@pytest.mark.parametrize("with_samples", [0, 1])
def test_a_rank_with_nothing_forwards_what_another_has_and_counts_nothing(with_samples: int):
    for result in processes.run(seen_by_a_rank_with_nothing, 2, with_samples):
        assert math.isnan(result.pop("of no place"))
        assert result == {"turns": 2, "first": [1.0, 2.0], "x": 3.0}


def refusals() -> list[str]:
    """What every rank says where no rank has anything."""
    said = []
    for attempt in (lambda: list(equal_length_batches([])), lambda: first_batch([])):
        with pytest.raises(ValueError) as error:
            attempt()
        said.append(str(error.value))
    return said


def test_validation_of_nothing_at_all_is_refused_on_every_rank():
    for said in processes.run(refusals, 2):
        assert all("no validation sample can be used" in line for line in said) and len(said) == 2
