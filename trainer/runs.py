"""The sections of a run, the checks that join two of them, and what happens between reading them and the first step."""

import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import torch

from ..models.conditions import ConditionConfig, UnconditionalConfig
from ..models.discriminators import DiscriminatorConfig, PatchGANConfig
from ..models.priors import GPTConfig, PriorConfig
from ..models.vqgan import VQGANConfig
from . import config as configs
from . import prior_data, ranks, weights
from .checkpoints import FOLDER, Checkpoints, write_text
from .crops import CodeCropConfig, CropConfig, TamingCropConfig
from .inference import weights_folder
from .loop import LoopConfig, Task, fit
from .metrics import Metrics, WandbConfig
from .previews import PreviewConfig
from .prior_task import PriorTask
from .reconstruction import VQGANLossConfig
from .sentinels import SentinelsConfig
from .stopping import StoppingConfig
from .stream import DataConfig, Stream
from .targets import Field
from .training import BatchConfig, NetworkConfig
from .vqgan_task import VQGANTask

RESOLVED = "config.yaml"
LOCK_PATIENCE_S = 1800.0
# What may change when a run goes on: how often it looks up, where it lies, who watches.
HARMLESS = ("folder", "keep", "wandb", "loop.", "data.workers", "timeout_s")


@dataclass(frozen=True, kw_only=True)
class VQGANRun:
    """Stage 1: an autoencoder of pictures, depths or label maps."""

    task: Literal["vqgan"] = "vqgan"
    folder: str
    rebuilds: Field = "picture"
    data: DataConfig
    held_out: DataConfig
    loop: LoopConfig
    batch: BatchConfig
    model: VQGANConfig = field(default_factory=VQGANConfig)
    loss: VQGANLossConfig = field(default_factory=VQGANLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=PatchGANConfig)
    generator_training: NetworkConfig
    discriminator_training: NetworkConfig | None = None  # needed with loss.adversarial
    sentinels: SentinelsConfig = field(default_factory=SentinelsConfig)
    channels_last: bool = False
    average: float = 0.999  # decay of the averaged weights, which are shown, evaluated and exported
    seed: int = 0
    keep: int = 3  # checkpoints
    timeout_s: float = 1800.0  # a collective that waits longer ends the job
    wandb: WandbConfig | None = None

    def __post_init__(self) -> None:
        for name, data in (("data", self.data), ("held_out", self.held_out)):
            if data.crop is None or isinstance(data.crop, CodeCropConfig):
                raise ValueError(f"{name}.crop must cut pictures to one size (kind: patch or taming), got {data.crop}")
            if data.crop.size % self.model.factor:
                raise ValueError(
                    f"{name}.crop.size must be a multiple of the factor {self.model.factor}, got {data.crop.size}"
                )
        for name, training in (
            ("generator_training", self.generator_training),
            ("discriminator_training", self.discriminator_training),
        ):
            if training is None:
                continue
            training.optimizer.peak(self.batch.total)
            if training.engine.precision == "fp16":
                raise ValueError(
                    f"{name}.engine.precision must be fp32 or bf16, got fp16, whose gradients underflow without a "
                    "scaled loss: the gradient that is cut at the picture has none, and bf16 needs none"
                )
        self._check_field()
        self._check_game()
        if self.sentinels.collapsed == "revive" and not hasattr(self.model.quantizer, "revive_after"):
            raise ValueError(
                f"sentinels.collapsed: revive needs a quantizer whose codes can be moved (vq, ema or cosine), "
                f"got {self.model.quantizer.kind}; set sentinels.collapsed: alert"
            )

    def _check_field(self) -> None:
        """The network and its losses fit what is rebuilt."""
        model, loss = self.model, self.loss
        if (self.rebuilds == "map") != (model.labels is not None):
            raise ValueError(f"rebuilds: map and model.labels go together, got {self.rebuilds} and {model.labels}")
        if self.rebuilds == "map":
            for name in ("perceptual", "logits", "adversarial"):
                if getattr(loss, name) is not None:
                    raise ValueError(f"loss.{name} is for pictures, not for maps; set loss.{name}: null")
            return
        channels = 3 if self.rebuilds == "picture" else 1
        if (model.in_channels, model.out_channels) != (channels, channels):
            raise ValueError(
                f"model.in_channels and out_channels must be {channels} for rebuilds: {self.rebuilds}, "
                f"got {model.in_channels} and {model.out_channels}"
            )

    def _check_game(self) -> None:
        """The discriminator, where there is one, can be trained as asked."""
        game, training = self.loss.adversarial, self.discriminator_training
        if game is None:
            return
        if training is None:
            raise ValueError("discriminator_training is missing; name its optimizer, or set loss.adversarial: null")
        if game.r1 > 0 and training.engine.zero == 3:
            raise ValueError(
                f"loss.adversarial.r1 needs discriminator_training.engine.zero 0, 1 or 2, because a partitioned "
                f"network has no second derivative, got r1 {game.r1} and zero 3; set zero: 2"
            )
        if training.engine.compile is not None:
            raise ValueError(
                f"discriminator_training.engine.compile must be null, because the graph of a fake is walked twice and "
                f"a compiled one only once, got {training.engine.compile}"
            )
        judged = getattr(self.discriminator, "resolution", None)
        if isinstance(self.data.crop, CropConfig | TamingCropConfig) and judged not in (None, self.data.crop.size):
            raise ValueError(f"discriminator.resolution must be data.crop.size {self.data.crop.size}, got {judged}")


@dataclass(frozen=True, kw_only=True)
class PriorRun:
    """Stage 2: a prior over a tokenizer's codes.

    With a crop of kind ``codes``, the data are code shards. With a crop of pictures they are picture shards, which the
    frozen tokenizers encode on line.
    """

    task: Literal["prior"] = "prior"
    folder: str
    tokenizer: str  # folder of the VQGAN's run or export; the code shards must be its own
    condition_tokenizers: dict[str, str] = field(default_factory=dict)  # alike, of the fields map and depth
    data: DataConfig
    held_out: DataConfig
    loop: LoopConfig
    batch: BatchConfig
    model: PriorConfig = field(default_factory=GPTConfig)
    condition: ConditionConfig = field(default_factory=UnconditionalConfig)
    training: NetworkConfig
    average: float = 0.999
    stopping: StoppingConfig | None = None
    previews: PreviewConfig | None = field(default_factory=PreviewConfig)
    seed: int = 0
    keep: int = 3
    timeout_s: float = 1800.0
    wandb: WandbConfig | None = None

    def __post_init__(self) -> None:
        self.training.optimizer.peak(self.batch.total)
        unknown = sorted(set(self.condition_tokenizers) - {"map", "depth"})
        if unknown:
            raise ValueError(f"condition_tokenizers are of the fields map and depth, got {', '.join(unknown)}")
        kinds = [isinstance(data.crop, CodeCropConfig) for data in (self.data, self.held_out)]
        if kinds[0] != kinds[1]:
            raise ValueError("data and held_out must both be code shards (crop: {kind: codes}), or both of pictures")
        for name, data in (("data", self.data), ("held_out", self.held_out)):
            if data.crop is None:
                raise ValueError(f"{name}.crop must be of kind codes, or cut pictures to the prior's window")
            if isinstance(data.crop, CodeCropConfig) and data.crop.window not in (self.model.window, (0, 0)):
                raise ValueError(
                    f"{name}.crop.window must be the prior's model.window {self.model.window}, got {data.crop.window}"
                )


Run = VQGANRun | PriorRun


def train(run: Run, fresh: bool) -> bool:
    """Carry a run to its last step, from where it stands; False when the job was asked to leave before.

    Every rank must call this, inside ``ranks.group``.

    Raises:
        ValueError: something about the run, its data or its folder is not as it must be; nothing was trained.
    """
    folder = Path(run.folder)
    with _alone_in(folder):
        if ranks.rank() == 0:
            _take_over(run, folder, fresh)
        ranks.barrier()
        torch.manual_seed(run.seed)  # the same weights on every rank
        task, training, held_out = built(run)
        metrics = Metrics(folder, run.loop.steps, run.wandb, configs.to_mapping(run))
        try:
            checkpoints = Checkpoints(folder, run.keep)
            finished = task.finished if isinstance(task, PriorTask) else lambda: False
            return fit(task, training, held_out, run.batch.micro, run.loop, metrics, checkpoints, finished)
        finally:
            metrics.close()


def built(run: Run) -> tuple[Task, Stream, Stream]:
    """The task of a run and its two streams. Every rank must call this, inside ``ranks.group``."""
    if isinstance(run, VQGANRun):
        training, held_out = _streams(run, (run.rebuilds,))
        return VQGANTask(run, training.accumulation), training, held_out
    prior = run.model.build(weights.read_card(weights_folder(Path(run.tokenizer)), "vqgan")["codes"], run.condition)
    made = prior_data.source(run, prior.condition)
    training, held_out = _streams(run, made.fields)
    prior_data.check((training, held_out), made, run)
    return PriorTask(run, prior, made, training.accumulation), training, held_out


def _streams(run: Run, fields: tuple[str, ...]) -> tuple[Stream, Stream]:
    place = {"rank": ranks.rank(), "world": ranks.world(), "micro_batch": run.batch.micro, "seed": run.seed}
    training = Stream(run.data, fields, global_batch=run.batch.total, **place)
    held_out = Stream(run.held_out, fields, global_batch=run.batch.micro * ranks.world(), **place)
    return training, held_out


def _take_over(run: Run, folder: Path, fresh: bool) -> None:
    """Check the run against what the folder holds of it, and leave its resolved config there."""
    resolved = folder / RESOLVED
    if fresh:
        for path in folder.iterdir():
            if path.name in (FOLDER, "pictures"):
                shutil.rmtree(path)
            elif path.suffix in (".jsonl", ".txt", ".yaml"):
                path.unlink()
    elif resolved.exists():
        changes = configs.differences(configs.read(Run, resolved), run)
        harmful = [change for change in changes if not change.startswith(HARMLESS)]
        if harmful:
            raise ValueError(
                f"{folder} holds a run with another config:\n  " + "\n  ".join(harmful) + "\n"
                "go on with the old values, choose another folder, or start anew with --fresh"
            )
        for change in changes:
            print(f"changed since the run began: {change}", flush=True)
    write_text(resolved, configs.dump(run))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Rank 0 holds the folder's lock, so that a job that was orphaned and its successor never write into one run.

    The successor waits; the lock falls with the process that held it.

    Raises:
        ValueError: the other job did not leave in time.
    """
    handle: IO[str] | None = None
    problem = ""
    if ranks.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+", encoding="utf-8")
        problem = _lock(handle, folder)
    problem = ranks.from_first(problem)
    if problem:
        raise ValueError(problem)
    try:
        yield
    finally:
        if handle is not None:
            handle.close()


def _lock(handle: IO[str], folder: Path) -> str:
    """Wait for the lock; what is wrong when it does not come, else nothing."""
    waited = 0.0
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            holder = handle.read().strip()
            if waited >= LOCK_PATIENCE_S:
                return f"another job is training in {folder} ({holder}); stop it, or choose another folder"
            if waited % 30 == 0:
                print(f"waiting for another job that trains in {folder} ({holder})", file=sys.stderr, flush=True)
            time.sleep(1.0)
            waited += 1.0
        else:
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
            return ""
