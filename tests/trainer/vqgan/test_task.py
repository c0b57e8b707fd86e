"""The adversarial step in real ranks is the step of one plain process on the whole batch."""

from functools import partial
from typing import Any

import processes
import pytest
import torch
from fixtures.games import STEPS, TOTAL, Plain, game, images, micro_batches

from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.vqgan.task import VQGANTask

WORLD = 2
CASES: dict[str, dict[str, Any]] = {
    **{f"zero {zero}": {"generator_zero": zero, "discriminator_zero": zero, "micro": 2} for zero in (0, 1, 2, 3)},
    "codes as drawn": {"quantizer": {"codebook_init": "uniform"}, "micro": 2},
    "weight at its clamp": {"max_adaptive_weight": 0.5, "micro": 2},
    "fixed weight": {"adaptive": False, "disc_weight": 0.1, "generator_zero": 3},
    "sees after": {"discriminator_fakes": "updated_generator", "micro": 2},
    "sees after, zero 3": {"discriminator_fakes": "updated_generator", "generator_zero": 3, "discriminator_zero": 3},
    "batch norm, zero 3": {"norm": "batch", "generator_zero": 3, "discriminator_zero": 3, "micro": 2},
    "act norm, zero 3": {"norm": "act", "generator_zero": 3, "discriminator_zero": 3, "micro": 2},
    "lecam and r1": {"lecam": {"weight": 0.1, "decay": 0.5}, "r1_gamma": 1.0, "norm": "batch", "discriminator_zero": 2},
    "averaged codes": {"quantizer": {"kind": "ema"}, "micro": 2},
    "entropies": {"quantizer": {"kind": "ibq"}, "disc_only_steps": 1, "ramp_steps": 1},
}


def settings(case: str) -> dict[str, Any]:
    return {"micro": TOTAL // WORLD} | CASES[case]


def play(names: list[str]) -> dict[str, Any]:
    """On a rank: every game named, its networks afterwards and its adaptive weights."""
    results = {}
    for name in names:
        run = game(**settings(name))
        torch.manual_seed(run.seed)
        task = VQGANTask(run, TOTAL // run.batch.micro_batch_size // ranks.world())
        weights: dict[str, list[torch.Tensor]] = {"adaptive_weight": [], "adaptive_weight_raw": []}
        for step in range(STEPS):
            scalars = task.step(micro_batches(step, run.batch.micro_batch_size, ranks.rank(), ranks.world()), step)
            for kind, of_steps in weights.items():
                of_steps += [scalars[kind]] if kind in scalars else []
        states = {name: sharded_parameters.full_state_dict(engine.module) for name, engine in task.engines.items()}
        lecam = task.discriminator_trainer.lecam
        anchors = None if lecam is None else torch.stack([lecam.real, lecam.fake])
        known = {kind: torch.stack(of_steps) for kind, of_steps in weights.items() if of_steps}
        results[name] = {**states, **known, "anchors": anchors}
    return results


@pytest.fixture(scope="module")
def played() -> list[dict[str, Any]]:
    return processes.run(play, WORLD, list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_ranks_are_one_plain_process_on_the_whole_batch(name: str, played: list[dict[str, Any]]) -> None:
    run = game(**settings(name))
    parts = TOTAL // run.batch.micro_batch_size // WORLD
    plain = Plain(run, parts)
    plain.play(STEPS)
    mine = played[0][name]
    before = Plain(run, parts)
    for network in ("generator", "discriminator"):
        moved = 0.0
        for key, expected in getattr(plain, network).named_parameters():
            value, named = mine[network][key], partial("{}: {}".format, key)
            torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-6, msg=named)
            moved += float((value - getattr(before, network).get_parameter(key).detach()).abs().sum())
        assert moved > 1  # it did learn
    for key, expected in plain.ema.items():
        torch.testing.assert_close(mine["generator"][f"quantize.embedding.{key}"], expected.float())
    weights, raw = (torch.tensor(each).view(STEPS, parts).mean(1) for each in (plain.weights, plain.raw_weights))
    if run.loss.adversarial.adaptive and not run.loss.adversarial.disc_only_steps:
        torch.testing.assert_close(mine["adaptive_weight"], weights, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(mine["adaptive_weight_raw"], raw, rtol=1e-3, atol=1e-4)
    if name == "weight at its clamp":
        assert (weights < raw).any()
    if run.loss.adversarial.lecam is not None:
        torch.testing.assert_close(mine["anchors"], plain.anchors, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_both_networks_are_the_same_on_all_ranks(name: str, played: list[dict[str, Any]]) -> None:
    one, other = (rank[name] for rank in played)
    for network in ("generator", "discriminator"):
        assert one[network].keys() == other[network].keys()
        assert all(torch.equal(value, other[network][key]) for key, value in one[network].items())


def first_step(zero: int, weight: float) -> dict[str, torch.Tensor]:
    """On a rank: the discriminator after one step of a game with this weight of the adversarial loss."""
    run = game(discriminator_zero=zero, disc_weight=weight)
    torch.manual_seed(run.seed)
    task = VQGANTask(run, TOTAL // run.batch.micro_batch_size // ranks.world())
    task.step(micro_batches(0, run.batch.micro_batch_size, ranks.rank(), ranks.world()), 0)
    return sharded_parameters.full_state_dict(task.engines["discriminator"].module)


def sizes(zero: int) -> dict[str, int]:
    """On a rank: bytes of Adam's moments after a step, and of the gradients that are kept of the next one."""
    run = game(micro=TOTAL // ranks.world(), generator_zero=zero, discriminator_zero=zero)
    torch.manual_seed(run.seed)
    task = VQGANTask(run, 1)
    task.step(micro_batches(0, run.batch.micro_batch_size, ranks.rank(), ranks.world()), 0)
    task.generator.backward(task.generator(images(0, 4).float() / 127.5 - 1).reconstruction.sum())
    optimizer = task.generator.optimizer
    moments = [m for s in optimizer.optimizer.state.values() for m in s.values() if m.dim() and m.numel() > 1]
    groups = [[optimizer.grad_partitions_flat_buffer]] if zero == 3 else optimizer.averaged_gradients.values()
    return {"moments": nbytes(moments), "gradients": sum(map(nbytes, groups))}


def nbytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def look_inside() -> dict[str, Any]:
    """On a rank: what the two functions above say, at every stage."""
    of_sizes = {str(zero): sizes(zero) for zero in (1, 2, 3)}
    if ranks.world() == 1:
        return {"sizes": of_sizes}
    by_weight = {str(zero): [first_step(zero, weight) for weight in (0.0, 0.8)] for zero in (0, 1, 2, 3)}
    return {"sizes": of_sizes, "by_weight": by_weight}


@pytest.fixture(scope="module")
def inside() -> list[dict[str, Any]]:
    return processes.run(look_inside, WORLD)


@pytest.mark.parametrize("zero", "0123")
def test_pushing_the_generator_leaves_the_discriminators_gradients_alone(zero: str, inside: list[Any]) -> None:
    without, with_it = inside[0]["by_weight"][zero]
    assert all(torch.equal(value, with_it[key]) for key, value in without.items())


def test_moments_and_gradients_a_rank_fall_with_the_number_of_ranks(inside: list[Any]) -> None:
    alone = processes.run(look_inside, 1)[0]["sizes"]
    for zero, expected in alone.items():
        for rank in inside:
            assert rank["sizes"][zero] == pytest.approx({k: size / WORLD for k, size in expected.items()}, rel=0.05)
