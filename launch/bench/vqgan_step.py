"""Measures a training step of stage 1 against the published one, in turns on the same networks and images.

Seconds are CPU seconds of this process on a CPU, which a busy machine disturbs least, and wall seconds on a GPU.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from ...models.pixel_range import from_levels
from ...trainer.config import from_mapping
from ...trainer.data.collate import Batch
from ...trainer.distributed import ranks
from ...trainer.vqgan.config import VQGANRun
from ...trainer.vqgan.frozen_losses import load_lpips
from ...trainer.vqgan.task import VQGANTask
from ..command import count
from .peers.published import PublishedLoop, Timed
from .timing import Clock, Flops, Peak, now

RATE = 1e-5
TRICKS: dict[str, dict[str, Any]] = {
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": {"precision": "bf16", "channels_last": True},
    "compile": {"compile": "inductor"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--size", type=count, default=256, metavar="S", help="side of an image in pixels (default 256)")
    parser.add_argument("--batch", type=count, default=1, metavar="B", help="images of a step (default 1)")
    parser.add_argument("--channels", type=count, default=128, metavar="C", help="width of the networks (default 128)")
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="steps of each, in turns (default 3)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="of torch on a CPU (default 1)")
    parser.add_argument(
        "--tricks", nargs="*", choices=sorted(TRICKS), default=[], metavar="TRICK",
        help=f"also measure the project's step with these: {', '.join(TRICKS)}",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure, print, and return the figures."""
    torch.set_num_threads(arguments.threads)
    with nullcontext() if dist.is_initialized() else ranks.process_group(1800.0):
        figures = _against_published(arguments)
        for trick in arguments.tricks:
            figures |= _with_trick(arguments, trick)
    return figures


def config(arguments: argparse.Namespace, precision: str = "fp32", **settings: Any) -> VQGANRun:
    """The published networks, narrower where asked, with LPIPS over a random trunk: the same work."""
    data = {"shards": ["none"], "crop": {"size": arguments.size}}
    # The published loop shards nothing; bf16 needs the masters that ZeRO 1 keeps.
    zero = 0 if precision == "fp32" else 1
    engine = {"zero_stage": zero, "precision": precision, "compile_backend": settings.pop("compile", None)}
    optimizer = {"learning_rate": RATE, "betas": [0.5, 0.9]}
    made: VQGANRun = from_mapping(VQGANRun, {
        "run_dir": "none", "train_data": data, "val_data": data, "loop": {"max_steps": 1 << 30},
        "batch": {"global_batch_size": arguments.batch, "micro_batch_size": arguments.batch},
        "model": {"channels": arguments.channels, "resolution": arguments.size, "z_channels": 2 * arguments.channels,
                  "attention_resolutions": [arguments.size // 16], "embed_dim": 2 * arguments.channels},
        "loss": {"perceptual": {"trunk": "random"}},
        "generator_training": {"optimizer": optimizer, "engine": engine},
        "discriminator_training": {"optimizer": optimizer, "engine": engine},
        **settings,
    })  # fmt: skip
    return made


class TimedEngine:
    """An engine whose forward, backward and step are parts of a clock's step."""

    def __init__(self, engine: Any, clock: Clock) -> None:
        self._engine = engine
        self._forward = clock.wrapped("generator forward", engine)
        self.backward = clock.wrapped("generator backward", engine.backward)
        self.step = clock.wrapped("optimizers", engine.step)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._forward(*positional, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def our_step(made: VQGANRun, clock: Clock) -> Callable[[int], None]:
    """The project's step on one batch, by its number, with its parts on the clock."""
    torch.manual_seed(0)
    task = VQGANTask(made, accumulation=1)
    adversary = task.discriminator_trainer
    if adversary is None:
        raise ValueError("this measurement needs the adversarial game")
    task.generator = TimedEngine(task.generator, clock)
    task.reconstruction_loss = clock.wrapped("losses", task.reconstruction_loss)  # type: ignore[assignment]
    adversary.adversarial_gradient = clock.wrapped("discriminator and adaptive weight", adversary.adversarial_gradient)  # type: ignore[method-assign]
    task.codebook.update = clock.wrapped("codebook and averages", task.codebook.update)  # type: ignore[method-assign]
    task.ema.update = clock.wrapped("codebook and averages", task.ema.update)  # type: ignore[method-assign]
    batch: Batch = {
        "image": image(made.batch.micro_batch_size, made.model.resolution),
        "key": ["none"] * made.batch.micro_batch_size,
    }

    def step(number: int) -> None:
        task.step([batch], 1 + number)  # never step 0, which places the codes

    return step


def published_step(made: VQGANRun, timed: Timed) -> Callable[[int], None]:
    """The published step on the same batch."""
    torch.manual_seed(0)
    generator, discriminator = made.model.build().to(ranks.device()), made.discriminator.build(3).to(ranks.device())
    game, perceptual = made.loss.adversarial, made.loss.perceptual
    if game is None or perceptual is None:
        raise ValueError("this measurement needs the adversarial game and LPIPS")
    loop = PublishedLoop(generator, discriminator, load_lpips(perceptual).to(ranks.device()), game.disc_weight, RATE)
    real = from_levels(image(made.batch.micro_batch_size, made.model.resolution).to(ranks.device()))
    return lambda _: loop.step(real, timed)


def image(count: int, size: int) -> torch.Tensor:
    """uint8 (B, 3, H, W) noise: the work does not depend on what is seen."""
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _against_published(arguments: argparse.Namespace) -> dict[str, float]:
    made, names = config(arguments), ("ours", "published")
    clocks = {name: Clock() for name in names}
    steps = {"ours": our_step(made, clocks["ours"]), "published": published_step(made, clocks["published"].timed)}
    flops, peaks, seconds = dict[str, float](), dict[str, float](), {name: list[float]() for name in names}
    for name in names:  # the first step of each allocates its optimizer's state
        with Flops() as counter:  # type: ignore[no-untyped-call]
            steps[name](0)
        flops[name] = counter.total / 1e9
        clocks[name].seconds.clear()
    for number in range(1, arguments.rounds + 1):
        for name in names if number % 2 else reversed(names):
            with Peak() as peak:
                began = now()
                steps[name](number)
                seconds[name].append(now() - began)
            peaks[name] = max(peaks.get(name, 0.0), peak.bytes / 2**20)
    figures = {"speedup": statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))}
    figures["flops_ratio"] = flops["published"] / flops["ours"]
    for name in names:
        figures |= {f"{name}_seconds": statistics.median(seconds[name]), f"{name}_gflop": flops[name],
                    f"{name}_peak_mib": peaks[name]}  # fmt: skip
        _print_parts(name, clocks[name], sum(seconds[name]))
    print(f"\n{'':>10}  {'seconds':>8}  {'GFLOP':>8}  {'peak MiB':>8}")
    for name in names:
        row = (figures[f"{name}_{column}"] for column in ("seconds", "gflop", "peak_mib"))
        print(f"{name:>10}  " + "  ".join(f"{value:8.2f}" for value in row))
    print(f"speedup {figures['speedup']:.2f}, of FLOPs {figures['flops_ratio']:.2f}")
    return figures


def _print_parts(name: str, clock: Clock, total: float) -> None:
    print(f"\n{name}: share of the step")
    for part, spent in sorted(clock.seconds.items(), key=lambda pair: -pair[1]):
        print(f"  {spent / total:6.1%}  {part}")
    print(f"  {1 - sum(clock.seconds.values()) / total:6.1%}  the rest")


def _with_trick(arguments: argparse.Namespace, trick: str) -> dict[str, float]:
    """What a trick adds to the project's own step, in turns with the plain one."""
    steps = [our_step(config(arguments), Clock()), our_step(config(arguments, **TRICKS[trick]), Clock())]
    seconds: list[list[float]] = [[], []]
    for number in range(arguments.rounds + 1):
        for step, taken in zip(steps, seconds, strict=True):
            began = now()
            step(number)
            taken.append(now() - began)
    ratio = statistics.median(plain / tricked for plain, tricked in list(zip(*seconds, strict=True))[1:])
    print(f"{trick}: {ratio:.2f} x the plain step's speed (first step {seconds[1][0]:.1f} s)", flush=True)
    return {f"speedup_of_{trick.replace(' ', '_')}": ratio}
