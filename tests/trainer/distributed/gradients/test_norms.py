"""The fused norm says what the walk over the parameters said, and another DeepSpeed is left as it is."""

import types
from typing import Any

import processes
import pytest
import torch
from fixtures.engines import STEPS, built, trained

from smalti.trainer.distributed import ranks
from smalti.trainer.distributed.engine import steps_applied
from smalti.trainer.distributed.gradients.norms import REPLACED, fuse, total_norm
from smalti.trainer.distributed.sharded_parameters import full_state_dict


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


def steps_with_a_bad_one_between() -> dict[str, list[Any]]:
    """What steps report of themselves and leave, one of them on a gradient that is not finite on rank 0 alone."""
    found = {}
    for zero, precision in [(0, "fp32"), (1, "fp32"), (1, "bf16"), (2, "fp32")]:
        engine, undisturbed = built(zero, precision), built(zero, precision)
        marks = []
        for step in range(STEPS):
            trained(engine, steps=range(step, step + 1))
            marks.append(steps_applied({"net": engine})["net"])
            before = full_state_dict(engine.module)
            inputs = torch.ones(1, 6, dtype=next(engine.module.parameters()).dtype)
            engine.backward(engine(inputs).float().sum() * (float("inf") if ranks.rank() == 0 else 1.0))
            engine.step()
            marks.append(steps_applied({"net": engine})["net"])
            after = full_state_dict(engine.module)
            assert all(torch.equal(before[name], after[name]) for name in before)
        straight = full_state_dict(trained(undisturbed).module)
        left = full_state_dict(engine.module)
        same = all(torch.equal(straight[name], left[name]) for name in straight)
        found[f"{zero} {precision}"] = [marks, same, engine.skipped_steps]
    return found


def test_a_step_on_a_gradient_that_is_not_finite_leaves_weights_and_moments_alone_on_all_ranks():
    for result in processes.run(steps_with_a_bad_one_between, 2):
        for case, (marks, same, skipped) in result.items():
            assert marks == [True, False] * STEPS, case
            assert same, case
            assert skipped == STEPS, case
