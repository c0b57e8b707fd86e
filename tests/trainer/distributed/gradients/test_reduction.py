"""Gradients leave in buckets, in order, in float32, and arrive as one plain process would have summed them."""

import types
from collections import Counter
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
from fixtures.engines import OPTIMIZER, built, plain, trained
from torch import nn

from smalti.launch.bench.launches import counted
from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed import ranks
from smalti.trainer.distributed.engine import EngineConfig
from smalti.trainer.distributed.gradients import reduction
from smalti.trainer.distributed.gradients.reduction import REPLACED, Reduction, Slice, _slices, install
from smalti.trainer.distributed.sharded_parameters import full_state_dict


def test_the_slices_of_a_bucket_are_those_of_the_partitions_that_it_crosses():
    assert list(_slices(7, 10, 5)) == [Slice(1, 0, 3, 2), Slice(2, 3, 8, 0), Slice(3, 8, 10, 0)]
    assert list(_slices(5, 5, 5)) == [Slice(1, 0, 5, 0)]


def test_an_optimizer_of_another_deepspeed_is_left_as_it_is_and_the_log_says_so():
    optimizer = types.SimpleNamespace(**{name: None for name in REPLACED if name != "reduce_gradients"})
    assert "reduce_gradients" in install(optimizer, nn.Linear(1, 1), 1)
    assert install(types.SimpleNamespace(cpu_offload=True), nn.Linear(1, 1), 1) == ""


def in_many_buckets() -> dict[str, Any]:
    """What is trained in buckets of a few numbers, sent to their owners or to all; how messages were sent."""
    found = {}
    for zero, accumulation, owners in [(1, 1, 4), (1, 2, 0), (2, 2, 4), (2, 1, 0)]:
        reduction.BUCKET, reduction.OWNERS = 10, owners
        sent: Counter[str] = Counter()
        finish = Reduction.finish

        def watched(self, sent=sent, finish=finish):
            sent["during the backward"] += self._next
            finish(self)

        Reduction.finish = watched
        try:
            state = full_state_dict(trained(built(zero, accumulation=accumulation), accumulation).module)
        finally:
            Reduction.finish = finish
        found[f"zero {zero}, accumulation {accumulation}, {owners} owners"] = (state, sent["during the backward"])
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_small_buckets_leave_during_the_backward_and_train_what_plain_torch_trains(world: int):
    expected = plain()
    for result in processes.run(in_many_buckets, world):
        for case, (state, sent) in result.items():
            assert sent >= 4 * 4, case  # of six buckets in four steps, all but what the first layer is in
            for name, value in expected.items():
                assert torch.allclose(state[name], value, rtol=1e-4, atol=1e-6), (case, name)


class Sum(nn.Module):
    """The sum of the inputs that it is given, times a weight each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(5))

    def forward(self, x, use_second: bool):
        return (self.first * x).sum() + (self.second.sum() * x if use_second else 0.0)


def sums_of_unequal_micro_batches() -> dict[str, list[float]]:
    """The gradients of 64 micro-batches in bf16, and those of a parameter that rank 0 alone uses."""
    reduction.BUCKET = 3
    found = {}
    for zero in (1, 2):
        engine = engines.build(Sum(), EngineConfig(zero_stage=zero, precision="bf16"), OPTIMIZER, 1, 64)
        taken = []
        engine.optimizer.step = lambda taken=taken, engine=engine: taken.extend(
            group.flat_partition.clone() for group in engine.optimizer.averaged_gradients.values()
        )
        for micro in range(64):
            x = torch.tensor(256.0 * 64 if micro == 0 else 64.0).bfloat16()
            engine.backward(engine(x, ranks.rank() == 0))
            engine.step()
        whole = torch.cat(taken)
        if ranks.world() > 1:
            gathered = [torch.zeros_like(whole) for _ in range(ranks.world())]
            dist.all_gather(gathered, whole)
            whole = torch.cat(gathered)
        found[f"zero {zero}"] = whole[whole != 0].tolist()
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_the_sum_over_micro_batches_and_ranks_is_one_of_float32(world: int):
    total = 256.0 + 63.0  # in bf16 a 1 is lost beside 256
    for result in processes.run(sums_of_unequal_micro_batches, world):
        for case, gradients in result.items():
            assert sorted(gradients) == sorted([total] * 3 + [total / world] * 5), case


def launches_by_depth() -> dict[str, list[int]]:
    """Copies and messages of a step of networks of 2 and of 9 layers."""
    found: dict[str, list[int]] = {}
    for zero in (1, 2):
        for layers in (2, 9):
            torch.manual_seed(0)
            module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))
            config = EngineConfig(zero_stage=zero, precision="bf16", grad_clip=1.0)
            engine = engines.build(module, config, OPTIMIZER, 1, 1)

            def step(engine=engine):
                engine.backward(engine(torch.ones(1, 4, dtype=torch.bfloat16)).float().sum())
                engine.step()

            step()
            counts, counter = counted(step)
            copies = sum(count for name, count in counter.launched.items() if "copy" in name)
            found.setdefault(f"zero {zero}", []).append(copies)
            assert counts.empty_collectives == 0 and counts.collectives == 0
    return found


def test_copies_of_gradients_do_not_grow_with_the_layers():
    (result,) = processes.run(launches_by_depth, 1)
    for case, (shallow, deep) in result.items():
        assert shallow == deep < 12, case
