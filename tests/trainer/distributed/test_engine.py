"""Every ZeRO stage on every number of ranks trains what one plain torch process trains, and its files run nothing."""

import os
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
from fixtures.engines import CLIP, OPTIMIZER, SAMPLES, STAGES, STEPS, built, network, plain, samples, trained
from torch import Tensor, nn

from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.distributed.engine import EngineConfig


def every_stage() -> dict[str, dict[str, Tensor]]:
    return {
        f"zero {zero}, accumulation {accumulation}": sharded_parameters.full_state_dict(
            trained(built(zero, accumulation=accumulation), accumulation).module
        )
        for zero in STAGES
        for accumulation in (1, 2)
    }


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_stage_and_accumulation_trains_what_plain_torch_trains(world: int):
    expected = plain()
    for result in processes.run(every_stage, world):
        assert len(result) == 8
        for case, state in result.items():
            for name, value in expected.items():
                assert torch.allclose(state[name], value, rtol=1e-4, atol=1e-6), (case, name)


def states_of_engines() -> dict[str, Any]:
    found = {}
    for zero, precision in [(0, "fp32"), (1, "fp32"), (2, "bf16"), (3, "fp32")]:
        fresh = built(zero, precision)
        found[f"zero {zero}, {precision}, fresh"] = engines.state_of({"net": fresh}).get("grad_norm/net", 0.0)
        found[f"zero {zero}, {precision}"] = engines.state_of({"net": trained(fresh, steps=range(1))})
    unclipped = engines.build(network(), EngineConfig(zero_stage=0), OPTIMIZER, SAMPLES // ranks.world(), 1)
    found["zero 0, not clipped"] = engines.state_of({"net": trained(unclipped, steps=range(1))})
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_engines_say_their_learning_rate_and_the_norm_of_the_whole_gradient_before_clipping(world: int):
    inputs, targets = samples(0)
    module = network()
    (module(inputs) - targets).square().mean().backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in module.parameters()]).norm().item()
    assert norm > CLIP
    for result in processes.run(states_of_engines, world):
        for case, state in result.items():
            if "fresh" in case:
                assert state == 0.0, case
            else:
                close = pytest.approx(norm, rel=0.02 if "bf16" in case else 1e-4)
                assert state == {"lr/net": OPTIMIZER.rate(0, STEPS), "grad_norm/net": close}, case


def masters_after_rewriting() -> dict[str, Any]:
    """Rewrite two rows of a weight in mid-training, then train on without gradient: what the masters hold shows."""
    found = {}
    for zero, precision in [(0, "fp32"), (1, "fp32"), (1, "bf16"), (2, "bf16"), (3, "fp32"), (3, "bf16")]:
        engine = trained(built(zero, precision), 1, range(2))
        weight = engine.module[0].weight
        with sharded_parameters.gathered_parameters([weight]):
            value = weight.detach().float().clone()
        value[[1, 5]] = 0.3
        sharded_parameters.overwrite_parameter(engine, weight, value, torch.tensor([1, 5]))
        shown = sharded_parameters.full_state_dict(engine.module)["0.weight"][1, 0].item()
        moments = _moment(engine, weight)
        engines.set_learning_rate(engine, 0.0)
        trained_on = _step_at_rate_zero(engine)
        found[f"zero {zero}, {precision}"] = [shown, trained_on, moments[1].tolist(), moments[2].abs().max().item()]
    return found


def _moment(engine: Any, weight: nn.Parameter) -> Tensor:
    if engine.zero_optimization_stage() == 0:
        return engine.optimizer.state[weight]["exp_avg"].clone()
    return sharded_parameters.safe_get_full_optimizer_state(weight, "exp_avg").clone()


def _step_at_rate_zero(engine: Any) -> float:
    inputs, targets = (part[ranks.rank() :: ranks.world()] for part in samples(9))
    outputs = engine(inputs.to(next(engine.module.parameters()).dtype))
    engine.backward((outputs.float() - targets).square().mean())
    engine.step()
    return sharded_parameters.full_state_dict(engine.module)["0.weight"][1, 0].item()


def test_a_rewritten_parameter_is_rewritten_in_its_masters_and_forgets_only_its_rows_moments():
    for result in processes.run(masters_after_rewriting, 2):
        for case, (shown, trained_on, rewritten, others) in result.items():
            assert shown == pytest.approx(0.3, abs=1e-3 if "bf16" in case else 1e-7), case
            assert trained_on == shown, case  # a step at learning rate 0 shows what the masters hold
            assert rewritten == [0.0] * 6, case
            assert others > 0, case


def bytes_of_every_stage() -> dict[str, int]:
    found = {}
    for zero in (1, 2, 3):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 500), nn.Linear(500, 64))
        engine = engines.build(module, EngineConfig(zero_stage=zero, precision="bf16"), OPTIMIZER, 1, 1)
        engine.backward(engine(torch.ones(1, 64, dtype=torch.bfloat16)).float().square().mean())
        engine.step()
        states = engine.optimizer.optimizer.state
        moments = [s[name] for s in states.values() for name in sharded_parameters.MOMENTS]
        found[f"moments at zero {zero}"] = sum(m.numel() * m.element_size() for m in moments)
        held = [sharded_parameters.local_shard(p) for p in engine.module.parameters()]
        found[f"weights at zero {zero}"] = sum(h.numel() * h.element_size() for h in held)
    return found


def test_the_optimizers_bytes_of_a_rank_fall_as_one_over_the_ranks():
    parameters = 64 * 500 + 500 + 500 * 64 + 64
    for world in (1, 2, 4):
        for result in processes.run(bytes_of_every_stage, world):
            for zero in (1, 2, 3):
                assert result[f"moments at zero {zero}"] == pytest.approx(8 * parameters / world, rel=0.05)
            assert result["weights at zero 2"] == 2 * parameters
            assert result["weights at zero 3"] == pytest.approx(2 * parameters / world, rel=0.05)


def written(files: list[engines.File]) -> None:
    for file in files:
        torch.save(file.content, file.path)
    dist.barrier()


def saved_and_loaded(folder: str) -> dict[str, bool]:
    """At every stage: train, save, train on; load into a fresh engine and train on again. The path is no pattern."""
    found = {}
    for zero, precision in [(0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "bf16")]:
        place = Path(folder) / f"lr[{zero}] it's 100% *? {precision}" / "net"
        engine = trained(built(zero, precision), 1, range(2))
        files = engines.save(engine, place)
        straight = sharded_parameters.full_state_dict(trained(engine, 1, range(2, STEPS)).module)
        written(files)  # steps later: they are a snapshot
        other = built(zero, precision)
        engines.load(other, place)
        resumed = sharded_parameters.full_state_dict(trained(other, 1, range(2, STEPS)).module)
        found[f"{zero} {precision}"] = all(torch.equal(straight[name], resumed[name]) for name in straight)
    return found


def test_a_loaded_engine_goes_on_bit_for_bit(tmp_path: Path):
    for result in processes.run(saved_and_loaded, 2, tmp_path):
        assert result == {"0 fp32": True, "1 bf16": True, "2 fp32": True, "3 bf16": True}


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def refusals(folder: str) -> list[str]:
    """Plant an object that runs a command in every file of a checkpoint in turn."""
    refused = []
    for zero in STAGES:
        place = Path(folder) / str(zero) / "net"
        engine = trained(built(zero), 1, range(1))
        written(engines.save(engine, place))
        for file in sorted(place.iterdir()):
            whole = file.read_bytes()
            torch.save({"module": Malice(Path(folder) / "harm"), "ds_version": "0"}, file)
            try:
                engines.load(built(zero), place)
            except Exception as error:
                refused.append(f"{zero}: {type(error).__name__}")
            file.write_bytes(whole)
    return refused


def test_a_malicious_file_is_refused_and_does_nothing(tmp_path: Path):
    (refused,) = processes.run(refusals, 1, tmp_path)
    assert not (tmp_path / "harm").exists()
    assert len(refused) == 7 and all("UnpicklingError" in line for line in refused), refused  # 1 file at 0, 2 elsewhere


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_clip": 0.0}, "clip must be a positive norm"),
        ({"zero_stage": 0, "offload_optimizer": True}, "set zero_stage: 1"),
        ({"zero_stage": 0, "precision": "bf16"}, "set zero_stage: 1"),
    ],
)
def test_engines_that_cannot_be_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        EngineConfig(**options)


def test_a_second_group_of_a_process_trains_what_the_first_one_did():
    weights = []
    for _ in range(2):
        with ranks.process_group(60.0):
            weights.append([weight.clone() for weight in trained(built(1)).module.state_dict().values()])
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))
