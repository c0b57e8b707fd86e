"""The fused norm says what the walk over the parameters said, and another DeepSpeed is left as it is."""

import types

import pytest
import torch

from smalti.trainer.distributed.gradient_norms import REPLACED, fuse, total_norm


def test_the_norm_is_that_of_all_gradients_in_one_vector():
    gradients = [torch.randn(5, 7), torch.randn(3).bfloat16(), torch.randn(())]
    expected = torch.cat([gradient.float().flatten() for gradient in gradients]).norm()
    torch.testing.assert_close(total_norm(gradients), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_norm_is_not_finite_where_one_gradient_is_not(bad: float):
    assert not total_norm([torch.ones(4), torch.tensor([1.0, bad])]).isfinite()


def test_an_optimizer_of_another_deepspeed_is_left_as_it_is_and_the_log_says_so():
    optimizer = types.SimpleNamespace(**{name: None for name in REPLACED if name != "has_overflow"})
    assert "has_overflow" in fuse(optimizer)
    assert optimizer.get_grad_norm_direct is None


def test_offloaded_states_keep_their_own_norm():
    optimizer = types.SimpleNamespace(cpu_offload=True)
    assert fuse(optimizer) == "" and not hasattr(optimizer, "has_overflow")
