"""GroupNorm that keeps channels-last is torch's own, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from smalti.models.layers.channels_last_norm import group_norm, is_channels_last


def drawn(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 12, 5, 7, dtype=torch.float64) + 2).to(dtype).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(12, dtype=torch.float64).to(dtype), torch.randn(12, dtype=torch.float64).to(dtype)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("groups", [1, 3, 4, 12])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])  # of the gradient
def test_the_norm_and_its_gradients_are_those_of_torch_in_float64(groups: int, layout: torch.memory_format):
    x, weight, bias = drawn(torch.float64)
    upstream = torch.randn(x.shape, dtype=torch.float64).contiguous(memory_format=layout)
    ours, theirs = group_norm(x, groups, weight, bias, 1e-6), F.group_norm(x, groups, weight, bias, 1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(ours, (x, weight, bias), upstream)
    expected = torch.autograd.grad(theirs, (x, weight, bias), upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert is_channels_last(ours) and is_channels_last(found[0])


def test_statistics_of_bfloat16_are_float32():
    x, weight, bias = drawn(torch.bfloat16)
    exact = F.group_norm(x.double(), 3, weight.double(), bias.double(), 1e-6)
    ours = group_norm(x, 3, weight, bias, 1e-6)
    assert ours.dtype == torch.bfloat16 and is_channels_last(ours)
    assert (ours.double() - exact).abs().max() < 2**-8 * exact.abs().max()  # the rounding of the result alone
    (found,) = torch.autograd.grad(ours.float().square().sum(), x)
    wanted = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(
        F.group_norm(wanted, 3, weight.double(), bias.double(), 1e-6).square().sum(), wanted
    )
    assert (found.double() - expected).abs().max() < 0.02 * expected.abs().max()


def test_what_is_stored_in_both_ways_at_once_is_not_called_channels_last():
    assert is_channels_last(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    assert not is_channels_last(torch.ones(2, 3, 4, 4)) and not is_channels_last(torch.ones(2, 3, 1, 1))
