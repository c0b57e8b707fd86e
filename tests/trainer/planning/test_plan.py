"""Planned bytes and operations against measured ones, within 10 %, and against calculations by hand."""

from dataclasses import replace
from typing import Any

import processes
import pytest
import torch
from fixtures.games import game
from fixtures.runs import write_prior, write_vqgan
from torch import nn

from smalti.trainer import config
from smalti.trainer.checkpoint import storage
from smalti.trainer.distributed import engine, sharded_parameters
from smalti.trainer.distributed.engine import EngineConfig, NetworkConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig
from smalti.trainer.jobs.networks import TrainedNetwork, checkpoint_bytes, trained_networks
from smalti.trainer.jobs.run import Run
from smalti.trainer.planning.costs import measure, step_flops
from smalti.trainer.planning.fake_tensor_meter import Meter, forget_gradients, simulated
from smalti.trainer.planning.plan import GIB, Machines, held, plan

OPTIMIZER = OptimizerConfig(learning_rate=1e-3)
WAYS = [(0, "fp32"), (1, "bf16"), (1, "fp32"), (2, "bf16"), (3, "bf16"), (3, "fp32")]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def held_by_engines() -> dict[str, dict[str, int]]:
    """What this rank's engine holds of everything, after a backward and after a step."""
    found = {}
    for zero, precision in WAYS:
        made = engine.build(network(), EngineConfig(zero_stage=zero, precision=precision), OPTIMIZER, 1, 1)
        parameters = list(made.module.parameters())
        inputs = torch.ones(1, 128, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
        made.backward(made(inputs).float().square().mean())
        own = made.optimizer
        masters = getattr(own, {3: "fp32_partitioned_groups_flat"}.get(zero, "single_partition_of_fp32_groups"), [])
        gradients = [parameter.grad for parameter in parameters]
        made.step()
        inner = own if zero == 0 else own.optimizer
        moments = [state[name] for state in inner.state.values() for name in sharded_parameters.MOMENTS]
        found[f"{zero} {precision}"] = {
            "weights": size(sharded_parameters.local_shard(parameter) for parameter in parameters),
            "masters": size(masters),
            "moments": size(moments),
            "whole gradients": size(gradients),
        }
    return found


def test_a_rank_holds_of_a_network_what_was_planned():
    world = 2
    parameters = sum(parameter.numel() for parameter in network().parameters())
    for result in processes.run(held_by_engines, world):
        for zero, precision in WAYS:
            sharding = EngineConfig(zero_stage=zero, precision=precision)
            planned = held(_network(parameters, sharding), sharding, world)
            measured = result[f"{zero} {precision}"]
            for name in ("weights", "masters", "moments"):
                assert getattr(planned, name) == pytest.approx(measured[name], rel=0.1), (zero, precision, name)
            assert planned.gradients >= measured["whole gradients"], (zero, precision)


def _network(parameters: int, sharding: EngineConfig) -> TrainedNetwork:
    training = NetworkConfig(optimizer=OPTIMIZER, engine=sharding)
    return TrainedNetwork("training", parameters, training, averaged=True, copies=2)


def test_operations_and_bytes_of_a_chain_can_be_counted_by_hand():
    with simulated():
        layer = nn.Linear(100, 100, bias=False)
        forget_gradients(layer)
        x = torch.zeros(50, 100, requires_grad=True)
        meter = Meter()
        with meter():
            layer(x.exp().exp().exp().exp()).sum().backward()
    assert meter.cost.flops == 3 * 2 * 50 * 100 * 100  # one product forward, two backward
    row = 50 * 100 * 4
    # Four powers wait for the backward, beside the layer's output or up to three gradients.
    assert 5 * row <= meter.cost.bytes <= 7 * row + 100 * 100 * 4


@pytest.mark.parametrize("write", [write_prior, write_vqgan])
def test_what_is_kept_for_the_backward_is_what_the_networks_really_keep(tmp_path, write):
    run = config.read(Run, write(tmp_path, model__channels=16, loss__adversarial=None) if write is write_vqgan else
                      write(tmp_path, model__layers=6, model__width=64))  # fmt: skip
    tokenizer = config.read(Run, write_vqgan(tmp_path, name="tokenizer")).model
    costs = measure(run, {"image": tokenizer})
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    if write is write_vqgan:
        module = run.model.build()
        call = lambda: module(torch.zeros(1, 3, 16, 16))  # noqa: E731
    else:
        module = run.model.build(tokenizer.codebook_size, run.condition)
        codes = torch.zeros(1, 4, 4, dtype=torch.int64)
        call = lambda: module(codes, {}, targets=codes)  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    measured = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    assert 0.95 * measured <= costs.sample.bytes <= 1.35 * measured  # and what a backward needs for a moment
    assert costs.networks[0].parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("condition", ["unconditional", "code_map"])
@pytest.mark.parametrize("kind", ["gpt", "neighborhood", "pixelsnail"])
def test_a_prior_of_every_kind_can_be_laid_out_without_numbers(tmp_path, kind, condition):
    depth = {"blocks": 2, "residual_blocks": 1} if kind == "pixelsnail" else {"layers": 2}
    model = {"kind": kind, "width": 16, "heads": 2, "window": [4, 4], **depth}
    maps = {} if condition == "unconditional" else {"field": "segmentation_codes", "vocab_size": 16}
    run = config.read(Run, write_prior(tmp_path, model=model, condition={"kind": condition, **maps}))
    costs = measure(run, {"image": config.read(Run, write_vqgan(tmp_path, name="tokenizer")).model})
    real = run.model.build(16, run.condition)
    assert costs.networks[0].parameters == sum(parameter.numel() for parameter in real.parameters())


WIDE = {"model__layers": 2, "model__width": 128}
BEST = {"early_stopping": {"patience": 9}, "ema_decay": 0.0}


@pytest.mark.parametrize(
    ("write", "zero", "settings"),
    [
        (write_prior, 1, WIDE),
        (write_prior, 3, WIDE),
        (write_prior, 1, WIDE | BEST),
        (write_vqgan, 1, {"model__channels": 32, "discriminator__channels": 64}),
    ],
)
def test_a_checkpoint_is_as_large_as_planned(tmp_path, write, zero, settings):
    place = write(tmp_path, zero=zero, precision="bf16", loop__max_steps=1, loop__eval_every=1, **settings)
    ended = processes.command("smalti.launch.train", [place], 2).wait()
    assert ended.codes == [0, 0], ended.log
    found = storage.latest_valid(tmp_path / "run")
    assert found is not None
    measured = sum(path.stat().st_size for path in found.folder.rglob("*") if path.is_file())
    planned = checkpoint_bytes(trained_networks(config.read(Run, place), codes=16))
    assert planned == pytest.approx(measured, rel=0.1)


def test_the_operations_of_a_step_are_those_of_all_its_samples_and_ask_for_no_tokenizer_of_codes(tmp_path):
    run = config.read(Run, write_prior(tmp_path))
    costs = measure(run, {"image": config.read(Run, write_vqgan(tmp_path, name="tokenizer")).model})
    moved = replace(run, tokenizer=str(tmp_path / "nowhere"))
    assert step_flops(moved, 16) == 8 * costs.sample.flops > 0


def test_the_first_way_of_sharding_that_holds_the_batch_is_recommended(tmp_path):
    run = config.read(Run, write_prior(tmp_path, precision="bf16"))
    costs = measure(run, {"image": config.read(Run, write_vqgan(tmp_path, name="tokenizer")).model})
    large = costs.networks[0]._replace(parameters=10**10)
    costs = costs._replace(networks=[large])
    roomy = plan(run, costs, Machines(nodes=1, gpus=8, memory=400))
    assert roomy.chosen.engine.zero_stage == 1 and roomy.chosen.micro == 1
    tight = plan(run, costs, Machines(nodes=1, gpus=8, memory=40))
    assert tight.chosen.engine.zero_stage == 3 and not tight.chosen.engine.offload_optimizer
    assert tight.settings(costs.networks) == ["batch.micro_batch_size=1", "training.engine.zero_stage=3"]
    assert any("zero 2 holds 0 samples of the 1" in reason for reason in tight.reasons)
    tiny = plan(run, costs, Machines(nodes=1, gpus=8, memory=20))
    assert tiny.chosen.engine.offload_optimizer
    none = plan(run, costs._replace(sample=costs.sample._replace(bytes=60 * GIB)), Machines(memory=20))
    assert none.chosen is None and "not even one sample" in none.reasons[0]


def test_time_and_samples_follow_from_the_config(tmp_path):
    run = config.read(Run, write_prior(tmp_path))
    costs = measure(run, {"image": config.read(Run, write_vqgan(tmp_path, name="tokenizer")).model})
    made = plan(run, costs, Machines(nodes=2, gpus=2, teraflops=1e-6, mfu=0.5))
    assert (made.steps, made.samples, made.tokens) == (6, 48, 48 * 16)
    assert made.seconds == pytest.approx(48 * costs.sample.flops / (4 * 1e6 * 0.5))
    with pytest.raises(
        ValueError, match=r"batch\.global_batch_size = 8 must be a multiple of the 3 ranks.*nearest: 6 or 9"
    ):
        plan(run, costs, Machines(nodes=1, gpus=3))


@pytest.fixture(scope="module")
def usual() -> float:
    """The operations of a sample of a game without further settings."""
    return measure(game(), {}).sample.flops


@pytest.mark.parametrize(
    ("settings", "costs_more"),
    [({"r1_gamma": 1.0}, True), ({"discriminator_fakes": "updated_generator"}, True), ({"adaptive": False}, False)],
)
def test_every_way_of_the_adversarial_loss_is_counted_as_it_is_trained(
    settings: dict[str, Any], costs_more: bool, usual: float
):
    other = measure(game(**settings), {}).sample.flops
    assert (other > usual) is costs_more and other != usual
