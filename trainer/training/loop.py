"""The loop: what happens, in order, on one screen. It knows a task, batches, metrics and checkpoints, nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...models.bounds import Count, check_ranges
from ..data.collate import Batch
from ..distributed import ranks
from ..distributed.engine import state_of
from ..distributed.engine_protocol import ShardedEngine
from ..distributed.watchdog import heartbeat
from ..keyed_random import mix
from ..schema import MAY_CHANGE
from .evaluation import first_batch


@dataclass(frozen=True)
class BatchConfig:
    """How many samples an optimizer step sees, and how many of them a rank holds at once."""

    global_batch_size: Count  # over all ranks and micro-batches
    micro_batch_size: Count = field(metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                "global_batch_size must be a multiple of micro_batch_size, "
                f"got {self.global_batch_size} and {self.micro_batch_size}"
            )


class TrainTask(Protocol):
    """What is trained. A step is an optimizer step: the task gets all its micro-batches."""

    @property
    def engines(self) -> Mapping[str, ShardedEngine]:
        """Every engine by its name, which is its folder's in a checkpoint."""

    def step(self, micro_batches: list[Batch], step: int) -> Mapping[str, Tensor]:
        """One optimizer step of every engine; the scalars stay on the device."""

    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images uint8 (H, W, 3) by name. Every rank must call this."""

    def evaluate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Figures over all ranks' validation batches, agreed by all. Every rank must call this."""

    def arrays(self) -> Mapping[str, Tensor]:
        """Small arrays that describe the run at the last evaluation, by name; the same on all ranks."""

    def finished(self) -> bool:
        """Whether the last evaluation was the last one; all ranks must agree."""


class ValBatches(Protocol):
    """What the loop needs of the validation stream."""

    def eval_batches(self, batch: int) -> Iterator[Batch]:
        """Every sample once over all ranks."""


class Metrics(Protocol):
    def add(self, scalars: Mapping[str, Tensor]) -> None: ...

    def write(self, step: int, state: Mapping[str, float]) -> None: ...

    def write_val(self, step: int, values: Mapping[str, float]) -> None: ...

    def write_arrays(self, step: int, described: Mapping[str, Tensor]) -> None: ...

    def write_images(self, step: int, images: Mapping[str, Tensor]) -> None: ...

    def note(self, saved: Any) -> None: ...


class CheckpointSaver(Protocol):
    def evaluated(self, step: int, figures: Mapping[str, float]) -> bool:
        """Note the figures of an evaluation; whether its step is to be saved because they are among the best."""

    def save(self, task: Any, step: int) -> Any:
        """Begin to save; returns what the save before has cost, or None."""

    def completed(self) -> Any:
        """What the save that was begun has cost, or None while it is under way."""

    def wait(self) -> Any:
        """Wait until what was begun is on the disk; returns what it has cost, or None."""


@dataclass(frozen=True)
class LoopConfig:
    """How long a run is and how often it looks up. All in steps."""

    max_steps: Count
    log_every: Count = 20
    preview_every: Count = 500
    eval_every: Count = 500
    save_every: Count = 500

    def __post_init__(self) -> None:
        check_ranges(self)


def fit(
    task: TrainTask,
    batches: Iterator[list[Batch]],
    val_batches: ValBatches,
    preview_batch: int,
    config: LoopConfig,
    metrics: Metrics,
    checkpoints: CheckpointSaver,
    start: int = 0,
) -> bool:
    """Train from a step to the last; True when it is reached, False when asked to leave before.

    Every rank must call this. All of them leave at the same step, with a checkpoint of it if they have trained.

    Args:
        batches: a list of this rank's micro-batches for every step from ``start`` on.
        start: the step to go on with, to which ``checkpoints`` and ``metrics`` have been brought.
    """
    step = start
    with ranks.Interrupt() as interrupt:
        leave = interrupt.stop_requested()  # a rank may have been asked to while it was starting
        while step < config.max_steps and not leave and not task.finished():
            if step == 0:
                _evaluate(task, val_batches, preview_batch, metrics, checkpoints, 0)
            metrics.add(task.step(next(batches), step))
            step += 1
            heartbeat()

            last, is_best = step == config.max_steps, False
            leave = interrupt.stop_requested()
            if last or step % config.log_every == 0:
                metrics.write(step, state_of(task.engines))
                metrics.note(checkpoints.completed())
            if last or step % config.eval_every == 0:
                is_best = _evaluate(task, val_batches, preview_batch, metrics, checkpoints, step)
                last = last or task.finished()
            if last or step % config.preview_every == 0:
                metrics.write_images(step, task.preview(first_batch(val_batches.eval_batches(preview_batch))))
            if last or leave or is_best or step % config.save_every == 0:
                metrics.note(checkpoints.save(task, step))
        metrics.note(checkpoints.wait())
    return step >= config.max_steps or task.finished()  # beyond it, where a user has made the run shorter


def _evaluate(
    task: TrainTask, val: ValBatches, batch: int, metrics: Metrics, checkpoints: CheckpointSaver, step: int
) -> bool:
    """Evaluate and say so; whether the step is among the best."""
    figures = task.evaluate(val.eval_batches(batch))
    metrics.write_val(step, figures)
    metrics.write_arrays(step, task.arrays())
    return checkpoints.evaluated(step, figures)


def reseed(seed: int, step: int) -> None:
    """Key torch's global randomness (dropout, noise) by step and rank, so that a resume needs no state of it."""
    torch.manual_seed(mix(seed, step, ranks.rank()))
