"""The sections of a run, the checks that join two of them, and what happens between reading them and the first step."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ..models.bounds import Count, Decay, Name, Seconds, Seed, Width, check_ranges
from ..models.conditions import ConditionConfig, UnconditionalConfig
from ..models.discriminators import DiscriminatorConfig, PatchGANConfig
from ..models.priors import GPTConfig, PriorConfig
from ..models.vqgan import VQGANConfig
from . import config as configs
from . import endings, failures, folders, preflight, prior_data, ranks, weights
from .crops import CodeCropConfig, CropConfig, TamingCropConfig
from .inference import weights_folder
from .initial_weights import load_initial_weights
from .loop import LoopConfig, fit
from .metrics import Metrics
from .previews import PreviewConfig
from .prior_task import PriorTask
from .reconstruction import VQGANLossConfig
from .run_data import RunData
from .saving import Checkpoints, Keep
from .schema import MAY_CHANGE
from .sentinels import SentinelsConfig
from .sequence import SequenceGroup
from .stopping import StoppingConfig
from .stream import DataConfig, Stream
from .targets import Field
from .training import BatchConfig, NetworkConfig
from .vqgan_task import VQGANTask
from .wandb_run import WandbConfig


@dataclass(frozen=True, kw_only=True)
class VQGANRun:
    """Stage 1: an autoencoder of pictures, depths or label maps."""

    task: Literal["vqgan"] = "vqgan"
    folder: Name = field(metadata=MAY_CHANGE)
    rebuilds: Field = "picture"
    data: DataConfig
    held_out: DataConfig
    loop: LoopConfig = field(metadata=MAY_CHANGE)
    batch: BatchConfig
    model: VQGANConfig = field(default_factory=VQGANConfig)
    loss: VQGANLossConfig = field(default_factory=VQGANLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=PatchGANConfig)
    generator_training: NetworkConfig
    discriminator_training: NetworkConfig | None = None  # needed with loss.adversarial
    sentinels: SentinelsConfig = field(default_factory=SentinelsConfig)
    channels_last: bool = False  # memory format of the pictures, which every layer hands on
    average: Decay = 0.999  # decay of the averaged weights, which are shown, evaluated and exported
    seed: Seed = 0
    # a run or export to start from, at step 0 only
    initial_weights: Name | None = field(default=None, metadata=MAY_CHANGE)
    keep: Count = field(default=3, metadata=MAY_CHANGE)  # checkpoints, the newest
    keep_every: Count | None = field(default=None, metadata=MAY_CHANGE)  # steps: checkpoints at its multiples stay too
    timeout_s: Seconds = field(default=1800.0, metadata=MAY_CHANGE)  # a collective that waits longer ends the job
    wandb: WandbConfig | None = field(default=None, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        check_ranges(self)
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
    folder: Name = field(metadata=MAY_CHANGE)
    tokenizer: Name = field(metadata=MAY_CHANGE)  # folder of the VQGAN's run or export; the code shards must be its own
    # alike, of the fields map and depth
    condition_tokenizers: dict[str, Name] = field(default_factory=dict, metadata=MAY_CHANGE)
    data: DataConfig
    held_out: DataConfig
    loop: LoopConfig = field(metadata=MAY_CHANGE)
    batch: BatchConfig
    model: PriorConfig = field(default_factory=GPTConfig)
    condition: ConditionConfig = field(default_factory=UnconditionalConfig)
    training: NetworkConfig
    # neighbouring ranks that share every sequence; as many fewer share out the batch
    sequence_ranks: Width = field(default=1, metadata=MAY_CHANGE)
    average: Decay = 0.999
    stopping: StoppingConfig | None = None
    previews: PreviewConfig | None = field(default_factory=PreviewConfig, metadata=MAY_CHANGE)
    seed: Seed = 0
    initial_weights: Name | None = field(default=None, metadata=MAY_CHANGE)
    keep: Count = field(default=3, metadata=MAY_CHANGE)
    keep_every: Count | None = field(default=None, metadata=MAY_CHANGE)
    timeout_s: Seconds = field(default=1800.0, metadata=MAY_CHANGE)
    wandb: WandbConfig | None = field(default=None, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        check_ranges(self)
        self.training.optimizer.peak(self.batch.total)
        if self.sequence_ranks < 1:
            raise ValueError(f"sequence_ranks must be at least 1, got {self.sequence_ranks}")
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
        SaveError: a checkpoint could not be written; those before it are as they were.
        FailedError: something else failed in mid-training, and why has been said.
        LeftError: the job was asked to leave while it waited for the folder.
    """
    folder = Path(run.folder)
    with folders.alone_in(folder), endings.told(folder) as ending:
        folders.take_over(folder, run, Run, fresh)
        about = preflight.check(folder, configs.dump(run), checkpoint_bytes(run))
        if ranks.rank() == 0:
            print(about, flush=True)
        torch.manual_seed(run.seed)  # the same weights on every rank
        task, training, held_out = built(run)
        metrics = Metrics(folder, run.loop.steps, run.wandb, configs.to_mapping(run))
        record = {"config": configs.to_mapping(run), "versions": preflight.versions(), "wandb": metrics.identity}
        data = RunData(training, held_out, task.tokenizers)
        checkpoints = Checkpoints(folder, Keep(run.keep, run.keep_every), data, metrics, record)
        finished = task.finished if isinstance(task, PriorTask) else lambda: False
        try:
            start = checkpoints.restore(task)
            metrics.rewind(start)
            batches = training.steps(start)
            with failures.explained(folder):
                done = fit(
                    task, batches, held_out, run.batch.micro, run.loop, metrics, checkpoints, start, finished
                )
        finally:
            checkpoints.settle()
            metrics.close()
        ending.code = endings.DONE if done else endings.LEFT
        return done


def checkpoint_bytes(run: Run) -> int:
    """About what a checkpoint of the run takes on the disk: masters, two moments, weights, and their average twice."""
    networks: list[nn.Module] = []
    with torch.device("meta"):
        if isinstance(run, VQGANRun):
            networks.append(run.model.build())
            if run.loss.adversarial is not None:
                networks.append(run.discriminator.build(run.model.out_channels))
        else:
            networks.append(run.model.build(_codes(run), run.condition))
    return sum(4 * 6 * parameter.numel() for network in networks for parameter in network.parameters())


def _codes(run: PriorRun) -> int:
    codes: int = weights.read_card(weights_folder(Path(run.tokenizer)), "vqgan")["codes"]
    return codes


def built(run: Run) -> tuple[VQGANTask | PriorTask, Stream, Stream]:
    """The task of a run and its two streams. Every rank must call this, inside ``ranks.group``."""
    if isinstance(run, VQGANRun):
        training, held_out = _streams(run, (run.rebuilds,))
        return VQGANTask(run, training.accumulation), training, held_out
    prior = run.model.build(_codes(run), run.condition)
    load_initial_weights(prior, run.initial_weights, Path(run.folder), "prior")
    if run.sequence_ranks > 1:
        prior.share_sequence(SequenceGroup(run.sequence_ranks))
    made = prior_data.source(run, prior.condition)
    training, held_out = _streams(run, made.fields, run.sequence_ranks)
    made = prior_data.completed(made, (training, held_out), run)
    return PriorTask(run, prior, made, training.accumulation), training, held_out


def _streams(run: Run, fields: tuple[str, ...], together: int = 1) -> tuple[Stream, Stream]:
    """Both streams of this rank; where one rank cannot read its shards, all of them say so.

    Args:
        together: neighbouring ranks that get the same samples.
    """
    rank, world = ranks.rank() // together, ranks.world() // together
    place = {"rank": rank, "world": world, "micro_batch": run.batch.micro, "seed": run.seed}
    problem, streams = "", []
    try:
        for data, batch in ((run.data, run.batch.total), (run.held_out, run.batch.micro * world)):
            streams.append(Stream(data, fields, global_batch=batch, **place))
    except (OSError, ValueError) as error:
        problem = f"rank {ranks.rank()} on {socket.gethostname()}: {error}"
    problems = [problem for problem in ranks.listed(problem) if problem]
    if problems:
        raise ValueError(problems[0])
    training, held_out = streams
    _check_same_data(training, held_out)
    return training, held_out


def _check_same_data(training: Stream, held_out: Stream) -> None:
    """Every rank sees the same samples under the paths of the config.

    Raises:
        ValueError: a rank does not, as where a node has a stale copy on its own disk.
    """
    mine = {"data": (training.samples, training.fingerprint), "held_out": (held_out.samples, held_out.fingerprint)}
    first, *others = ranks.listed((socket.gethostname(), mine))
    for rank, (host, theirs) in enumerate(others, start=1):
        for name, (samples, fingerprint) in theirs.items():
            if (samples, fingerprint) != first[1][name]:
                raise ValueError(
                    f"rank {rank} on {host} finds other samples in {name} than rank 0 on {first[0]}: {samples} with "
                    f"the fingerprint {fingerprint} against {first[1][name][0]} with {first[1][name][1]}; give every "
                    "node the same shards"
                )
