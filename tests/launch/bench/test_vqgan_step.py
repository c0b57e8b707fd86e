"""The measurement of stage 1 compares two ways of taking the same step."""

import argparse
import contextlib
import dataclasses

import processes
import torch

from smalti.launch.bench import vqgan_step
from smalti.launch.bench.peers.published import PublishedLoop
from smalti.models.losses.lpips import LPIPS
from smalti.trainer.distributed import ranks
from smalti.trainer.vqgan.frozen_losses import load_lpips
from smalti.trainer.vqgan.task import VQGANTask

SMALL = ["--size", "32", "--channels", "32", "--rounds", "1"]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    vqgan_step.add_arguments(parser)
    return parser.parse_args(SMALL)


def both_ways() -> dict[str, float]:
    """On a rank: the figures; and how far two steps the published way end from two of ours, against their length."""
    figures = vqgan_step.run(parsed())
    made = vqgan_step.config(parsed())
    game = dataclasses.replace(made.loss.adversarial, discriminator_fakes="updated_generator")
    made = dataclasses.replace(made, loss=dataclasses.replace(made.loss, adversarial=game))
    torch.manual_seed(0)
    generator, discriminator = made.model.build(), made.discriminator.build(3)
    start = [p.detach().clone() for p in (*generator.parameters(), *discriminator.parameters())]
    lpips: LPIPS = load_lpips(made.loss.perceptual)
    loop = PublishedLoop(generator, discriminator, lpips, game.disc_weight, vqgan_step.RATE)
    torch.manual_seed(0)
    task = VQGANTask(made, 1)
    batch = {"image": vqgan_step.image(1, 32), "key": ["none"]}
    for step in (1, 2):
        loop.step(batch["image"].float() / 127.5 - 1, lambda _: contextlib.nullcontext())
        task.step([batch], step)
    ours = [p.detach() for engine in task.engines.values() for p in engine.module.parameters()]
    theirs = [p.detach() for p in (*generator.parameters(), *discriminator.parameters())]
    apart = sum(float((one - other).abs().sum()) for one, other in zip(ours, theirs, strict=True))
    length = sum(float((one - other).abs().sum()) for one, other in zip(theirs, start, strict=True))
    return {**figures, "apart": apart / length, "ranks": float(ranks.world())}


def test_both_ways_take_the_same_step_and_ours_does_less_work() -> None:
    figures = processes.run(both_ways, 1)[0]
    assert figures["apart"] < 0.02  # Adam divides rounding by rounding where a gradient is nearly 0
    assert figures["flops_ratio"] > 1.3
    assert figures["speedup"] > 0 and figures["ours_peak_mib"] > 0
