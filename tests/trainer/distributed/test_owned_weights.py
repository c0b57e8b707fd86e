"""Every weight is owned by one rank, at every stage of ZeRO, and what is put in its place reaches every rank."""

import processes
import pytest
import torch
from fixtures.engines import STAGES, built, network, trained
from torch import Tensor

from smalti.trainer.distributed import ranks
from smalti.trainer.distributed.owned_weights import owned
from smalti.trainer.distributed.sharded_parameters import full_state_dict
from smalti.trainer.training.ema import EMA

SIZES = {name: parameter.numel() for name, parameter in network().named_parameters()}


def owned_parts() -> dict[str, dict[str, list[int]]]:
    """Where each rank's part of a parameter begins and how long it is, by stage."""
    found = {}
    for zero in STAGES:
        mine = owned(built(zero))
        assert mine.sizes == SIZES
        found[str(zero)] = {name: [part.offset, part.numel] for name, part in mine.parts.items()}
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_parts_make_up_each_parameter_once(world: int):
    results = processes.run(owned_parts, world)
    for zero in STAGES:
        for name, size in SIZES.items():
            parts = [result[str(zero)][name] for result in results if name in result[str(zero)]]
            end = 0
            for offset, numel in parts:
                assert offset == end
                end += numel
            assert size <= end < size + (world if zero == 3 else 1)  # the last partitions of ZeRO 3 are filled up


def averages(precision: str) -> dict[str, list[dict[str, Tensor]]]:
    """Masters before and after some steps, their average as the network shows it, and the network after that."""
    found = {}
    for zero in STAGES[1:] if precision == "bf16" else STAGES:
        engine = built(zero, precision)
        average = EMA(owned(engine), 0.5)
        first = full_state_dict(engine.module)
        trained(engine)
        last = full_state_dict(engine.module)
        average.update(100)
        with average.applied():
            shown = full_state_dict(engine.module)
        found[str(zero)] = [first, last, shown, full_state_dict(engine.module)]
        held = sum(value.numel() for value in average.state_dict().values())
        assert held <= sum(SIZES.values()) / ranks.world() + sum(SIZES.values()) % 2 + len(SIZES)
    return found


@pytest.mark.parametrize(("world", "precision"), [(1, "fp32"), (2, "fp32"), (2, "bf16")])
def test_the_network_shows_the_average_and_then_its_own_weights_bit_for_bit(world: int, precision: str):
    exact = {"fp32": 1e-6, "bf16": 2**-7}[precision]
    for result in processes.run(averages, world, precision):
        for first, last, shown, after in result.values():
            for name in SIZES:
                assert torch.equal(after[name], last[name])
                assert not torch.equal(shown[name], last[name])
                torch.testing.assert_close(shown[name], (first[name] + last[name]) / 2, rtol=exact, atol=exact)
