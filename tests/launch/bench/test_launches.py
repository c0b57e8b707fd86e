"""What a step is counted for: kernels without views, waits, and messages."""

import pytest
import torch

from smalti.launch.bench.launches import SAMPLED_WINDOW, counted, counted_sampling
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.neighborhood import NeighborhoodConfig


def test_views_and_empty_tensors_are_not_kernels():
    tensor = torch.ones(4, 6)
    counts, _ = counted(lambda: torch.empty(3) is not None and tensor.t()[0] + 1)
    assert counts.launches == 1


def test_backward_passes_count():
    weight = torch.ones(3, requires_grad=True)
    forward = counted(lambda: (weight * 2).sum())[0].launches
    assert counted(lambda: (weight * 2).sum().backward())[0].launches > forward


def test_every_way_to_read_a_number_is_a_wait():
    tensor = torch.ones(3)
    assert counted(lambda: tensor[0].item())[0].waits == 1
    assert counted(lambda: bool(tensor.isfinite().all()))[0].waits == 1
    assert counted(lambda: tensor.tolist())[0].waits == 1
    assert counted(lambda: tensor.nonzero())[0].waits == 1
    assert counted(lambda: tensor + 1)[0].waits == 0


@pytest.mark.parametrize(
    ("make", "settings"), [(GPTConfig, {}), (NeighborhoodConfig, {"rows_above": 2, "columns_beside": 2})]
)
@pytest.mark.parametrize("lanes", [1, 64])
def test_no_step_of_a_sampler_of_24_layers_has_more_than_700_kernels_or_waits(make, settings, lanes):
    window = (SAMPLED_WINDOW, SAMPLED_WINDOW)
    shallow, deeper = (
        counted_sampling(make(layers=layers, heads=2, width=16, window=window, **settings), lanes) for layers in (1, 2)
    )
    assert len(shallow) > 10
    for (one, _), (two, _) in zip(shallow, deeper, strict=True):
        assert one.waits == two.waits == 0
        assert one.launches + 23 * (two.launches - one.launches) <= 700
