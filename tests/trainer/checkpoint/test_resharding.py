"""A run goes on at another ZeRO stage and on another number of ranks as if it had always been there."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
from fixtures.engines import OPTIMIZER, STAGES, STEPS, built, plain, trained

from smalti.trainer.checkpoint import resharding
from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.distributed.owned_weights import owned
from smalti.trainer.training.ema import EMA

HALF = STEPS // 2


def first_half(folder: str) -> None:
    """Train every stage half way, save its engine and its averaged weights."""
    for zero in STAGES:
        engine = built(zero)
        average = EMA(owned(engine), 0.5)
        trained(engine, steps=range(HALF))
        average.update(HALF)
        for file in engines.save(engine, Path(folder) / str(zero) / "net"):
            torch.save(file.content, file.path)
        torch.save(average.state_dict(), Path(folder) / str(zero) / f"average-{ranks.rank()}.pt")
    dist.barrier()


def second_half(folder: str, saved_on: int) -> dict[str, Any]:
    """Go on from every stage at every stage."""
    found = {}
    for before in STAGES:
        for after in STAGES:
            engine = built(after)
            average = EMA(owned(engine), 0.5)
            place = Path(folder) / str(before)
            resharding.load(engine, place / "net", before, saved_on)
            parts = [torch.load(place / f"average-{rank}.pt", weights_only=True) for rank in range(saved_on)]
            average.load_state_dict(average.resharded(parts))
            with average.applied():
                averaged = sharded_parameters.full_state_dict(engine.module)
            trained(engine, steps=range(HALF, STEPS))
            found[f"{before} to {after}"] = [
                sharded_parameters.full_state_dict(engine.module),
                averaged,
                engine.global_steps,
            ]
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What the first half leaves, by the number of ranks that saved it; it is only read."""
    found = {}
    for world in (1, 2, 4):
        found[world] = tmp_path_factory.mktemp(f"on-{world}")
        processes.run(first_half, world, found[world])
    return found


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (4, 2)])
def test_training_goes_on_between_all_stages_and_numbers_of_ranks(before: int, after: int, saved: dict[int, Path]):
    expected = plain()
    for result in processes.run(second_half, after, saved[before], before):
        assert len(result) == 16
        averages = [averaged for _, averaged, _ in result.values()]
        for case, (weights, averaged, steps) in result.items():
            assert steps == STEPS, case
            for name, value in expected.items():
                assert torch.allclose(weights[name], value, rtol=1e-4, atol=1e-6), (case, name)
                assert torch.allclose(averaged[name], averages[0][name], rtol=1e-4, atol=1e-6), (case, name)
                if value.is_floating_point():
                    assert not torch.allclose(averaged[name], value, atol=1e-6), (case, name)


def states_after_resharding(folder: str, before: int, after: int, saved_on: int) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    engine = built(after)
    resharding.load(engine, Path(folder) / str(before) / "net", before, saved_on)
    return {
        name: [safe_get_full_optimizer_state(p, moment).flatten() for moment in sharded_parameters.MOMENTS]
        + [safe_get_full_fp32_param(p).flatten()]
        for name, p in engine.module.named_parameters()
    }


def test_masters_and_moments_are_dealt_out_bit_for_bit(saved: dict[int, Path]):
    there = {case: processes.run(states_after_resharding, world, saved[2], *case, 2)
             for case, world in (((1, 3), 1), ((1, 2), 4), ((1, 1), 1))}  # fmt: skip
    expected = there.pop((1, 1))[0]
    for case, results in there.items():
        for result in results:
            for name, states in expected.items():
                assert all(map(torch.equal, states, result[name])), (case, name)


def another_network(folder: str) -> str:
    engine = engines.build(torch.nn.Linear(2, 2), engines.EngineConfig(zero_stage=1), OPTIMIZER, 1, 1)
    try:
        resharding.load(engine, Path(folder) / "1" / "net", 1, 2)
    except ValueError as error:
        return str(error)
    return ""


def test_the_states_of_another_network_are_refused(saved: dict[int, Path]):
    assert "holds other parameters: 0.bias" in processes.run(another_network, 1, saved[2])[0]
