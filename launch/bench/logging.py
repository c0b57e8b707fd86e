"""What logging costs of a training step.

Steps of both stages are trained in this process on the networks of ``smalti bench launches``. Turns with and without
logging alternate; one with it has as many steps as a run does between two lines, one without a quarter of them, as it
only shows what a step takes. Logging is all that a run does besides the step itself: adding up its scalars on the
device and, at the last step of a turn, their mean over ranks, the state of the engines, throughput, the line in files
and on the console and, with --wandb, in wandb's offline files.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...trainer.distributed import ranks
from ...trainer.distributed.engine import state_of
from ...trainer.distributed.engine_protocol import ShardedEngine
from ...trainer.training.metrics import Metrics
from ...trainer.training.throughput import Workload
from ...trainer.training.wandb_logger import WandbConfig
from ..command import count
from .launches import small_prior, small_vqgan
from .timing import wait


class Spent(NamedTuple):
    """Seconds of a stage's step."""

    logging: float  # in logging alone
    logged: float  # with logging
    plain: float  # without


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--every", type=count, default=20, metavar="N", help="steps of a turn, from line to line (20)")
    parser.add_argument("--rounds", type=count, default=2, metavar="N", help="turns with and without logging (2)")
    parser.add_argument("--layers", type=count, default=4, help="of the prior (4)")
    parser.add_argument("--wandb", action="store_true", help="log to wandb too, offline")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure, print the table, and return the figures; ``logging_share`` is that of the stage where it is larger."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, ranks.process_group(300.0):
        vqgan, images = small_vqgan()
        prior, grids = small_prior(arguments.layers)
        stages: dict[str, tuple[Callable[[int], Mapping[str, Tensor]], Mapping[str, ShardedEngine]]] = {
            "vqgan": (lambda number: vqgan.step([images], number), vqgan.engines),
            "prior": (lambda number: prior.step([grids], number), prior.engines),
        }
        rows = []
        for name, (step, engines) in stages.items():
            spent = _turns(arguments, Path(folder, name), step, engines)
            figures[f"logging_share_{name}"] = spent.logging / spent.logged
            figures[f"seconds_per_logged_step_{name}"] = spent.logged
            figures[f"seconds_per_plain_step_{name}"] = spent.plain
            rows.append(
                f"| {name} | {spent.plain:.4f} | {spent.logged:.4f} | {spent.logging:.5f} | "
                f"{spent.logging / spent.logged:.3%} |"
            )
    print("\n| step | seconds without | with logging | of logging alone | share |\n|---|---|---|---|---|")
    print("\n".join(rows))
    figures["logging_share"] = max(figures["logging_share_vqgan"], figures["logging_share_prior"])
    return figures


def _turns(
    arguments: argparse.Namespace,
    folder: Path,
    step: Callable[[int], Mapping[str, Tensor]],
    engines: Mapping[str, ShardedEngine],
) -> Spent:
    """Alternate turns of a stage, after two steps that fill the optimizer's state."""
    watched = WandbConfig() if arguments.wandb else None
    turns = {True: arguments.every, False: -(-arguments.every // 4)}  # steps, by whether they are logged
    metrics = Metrics(folder, 2 + arguments.rounds * sum(turns.values()), watched, {}, Workload("images", 1))
    metrics.rewind(0)
    for number in range(2):
        step(number)
    device, number = ranks.device(), 2
    logging = logged = plain = 0.0
    for _ in range(arguments.rounds):
        for is_logged, steps in turns.items():
            for place in range(steps):
                began = _now(device)
                scalars = step(number)
                number += 1
                stepped = _now(device)
                if not is_logged:
                    plain += stepped - began
                    continue
                metrics.add(scalars)
                if place == steps - 1:
                    metrics.write(number, state_of(engines))
                ended = _now(device)
                logging += ended - stepped
                logged += ended - began
    metrics.close()
    steps_logged, steps_plain = (arguments.rounds * steps for steps in turns.values())
    return Spent(logging / steps_logged, logged / steps_logged, plain / steps_plain)


def _now(device: torch.device) -> float:
    wait(device)
    return time.perf_counter()
