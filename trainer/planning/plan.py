"""What a run will take, before it is started: bytes a rank, the largest micro-batch, time, and what to set.

Bytes of weights and of their optimizer are ZeRO's arithmetic (Rajbhandari et al. 2020, figure 1) as DeepSpeed does it;
those of activations come from ``costs``. All is said of the fullest rank.

Letters: P trained parameters of a network, N ranks, b bytes of a number in training.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..distributed.engine import BUCKET, EngineConfig
from ..distributed.gradients.reduction import BUCKET as REDUCED
from ..distributed.gradients.reduction import IN_FLIGHT
from ..jobs.networks import BYTES, TrainedNetwork, checkpoint_bytes
from ..jobs.run import Run
from .costs import Costs
from .pace import Machines as Machines
from .pace import Pace, Reading, Saving, pace, reading, saving

_RESERVE = 0.1  # of a GPU, for the workspaces of kernels, the driver's own and fragments
GIB = 1024**3


class Held(NamedTuple):
    """Bytes that a rank holds of its networks through a step, on its GPU but for ``host``."""

    weights: float
    gradients: float
    masters: float
    moments: float
    average: float
    buffers: float  # of gradients on their way to other ranks
    host: float  # what is offloaded

    @property
    def device(self) -> float:
        """All that lies on the GPU."""
        return sum(self) - self.host


class Fit(NamedTuple):
    """How one way of sharding fits."""

    engine: EngineConfig
    held: Held
    frozen: float  # bytes
    largest: int  # samples of a micro-batch that fit; 0 if none do
    micro: int  # the largest of them that divides the global batch
    pace: Pace  # of a step with such micro-batches

    @property
    def name(self) -> str:
        """In words."""
        offloaded = [word for word in ("optimizer", "parameters") if getattr(self.engine, f"offload_{word}")]
        return f"zero {self.engine.zero_stage}" + "".join(f" + {word} on the host" for word in offloaded)


class Plan(NamedTuple):
    """What a run will take."""

    fits: list[Fit]
    chosen: Fit | None
    reasons: list[str]
    steps: int
    samples: int
    tokens: int
    flops: float
    seconds: float
    checkpoint: float  # bytes
    reading: Reading
    saving: Saving

    def settings(self, networks: Sequence[TrainedNetwork]) -> list[str]:
        """The recommendation as ``--set`` understands it."""
        if self.chosen is None:
            return []
        found = [f"batch.micro_batch_size={self.chosen.micro}"]
        for network in networks:
            for name in ("zero_stage", "offload_optimizer", "offload_parameters"):
                value = getattr(self.chosen.engine, name)
                if value != getattr(network.training.engine, name):
                    found.append(f"{network.section}.engine.{name}={str(value).lower()}")
        return found


def held(network: TrainedNetwork, engine: EngineConfig, ranks: int) -> Held:
    """What a rank holds of one network at the end of a backward, when there is most of it."""
    p, b = network.parameters, BYTES[engine.precision]
    share = p / ranks
    weights = b * (share if engine.zero_stage == 3 else p)
    # Stage 1 reduces at the end of the accumulation: until then a rank has the whole gradient, then its own part too.
    # What is summed over ranks or micro-batches is float32.
    gradients = {0: b * p, 1: 4 * (p + share), 2: 4 * share, 3: b * share}[engine.zero_stage]
    masters = 0.0 if engine.zero_stage == 0 else 4 * share
    moments = 8.0 * (p if engine.zero_stage == 0 else share)
    average = 4.0 * share if network.averaged else 0.0
    buffers = {0: 0, 1: 4 * min(IN_FLIGHT * REDUCED, p), 2: 4 * min(IN_FLIGHT * REDUCED, p), 3: b * min(BUCKET, p)}[
        engine.zero_stage
    ]
    host = 0.0
    if engine.offload_optimizer:
        host, masters, moments = host + masters + moments, 0.0, 0.0
    if engine.offload_parameters:
        host, weights = host + weights, 0.0
    return Held(weights, gradients, masters, moments, average, buffers, host)


def plan(run: Run, costs: Costs, machines: Machines) -> Plan:
    """Weighs the ways of sharding, from the least talkative on, and chooses the first that holds the micro-batch asked.

    Raises:
        ValueError: the global batch cannot be divided among the ranks.
    """
    if run.batch.global_batch_size % machines.ranks:
        raise ValueError(
            f"batch.global_batch_size = {run.batch.global_batch_size} must be a multiple of the {machines.ranks} "
            f"ranks of {machines.nodes} x "
            f"{machines.gpus} GPUs; nearest: {_nearest(run.batch.global_batch_size, machines.ranks)}"
        )
    fits = [_fit(run, costs, machines, engine) for engine in _ways(costs)]
    chosen, reasons = _choose(run, fits, machines)
    samples = run.loop.max_steps * run.batch.global_batch_size
    flops = samples * costs.sample.flops
    fit = chosen or fits[-1]
    step_seconds, engine = fit.pace.seconds, fit.engine
    checkpoint = checkpoint_bytes(
        network._replace(training=replace(network.training, engine=_in_its_numbers(network, engine)))
        for network in costs.networks
    )
    tokens = samples * costs.tokens
    needed = reading(run.train_data, run.batch.global_batch_size, step_seconds, machines.nodes)
    save = saving(costs.networks, engine, machines)
    seconds = run.loop.max_steps * step_seconds
    return Plan(fits, chosen, reasons, run.loop.max_steps, samples, tokens, flops, seconds, checkpoint, needed, save)


def _in_its_numbers(network: TrainedNetwork, engine: EngineConfig) -> EngineConfig:
    """A way of sharding in the numbers that this network is trained in."""
    return replace(engine, precision=network.training.engine.precision)


def _ways(costs: Costs) -> list[EngineConfig]:
    """From the fewest messages to the least memory."""
    precision = costs.networks[0].training.engine.precision
    ways = [EngineConfig(zero_stage=stage, precision=precision) for stage in (1, 2, 3)]
    last = ways[-1]
    return [
        *ways,
        replace(last, offload_optimizer=True),
        replace(last, offload_optimizer=True, offload_parameters=True),
    ]


def _fit(run: Run, costs: Costs, machines: Machines, engine: EngineConfig) -> Fit:
    parts = [held(network, _in_its_numbers(network, engine), machines.ranks) for network in costs.networks]
    whole = Held(*(sum(column) for column in zip(*parts, strict=True)))
    room = machines.memory * GIB * (1 - _RESERVE) - whole.device - costs.frozen
    largest = max(math.floor(room / costs.sample.bytes), 0)
    each = run.batch.global_batch_size // machines.ranks
    micro = max((size for size in range(1, each + 1) if each % size == 0 and size <= largest), default=0)
    step = pace(run, costs.networks, costs.sample.flops, engine, micro, machines)
    return Fit(engine, whole, costs.frozen, largest, micro, step)


def _choose(run: Run, fits: Sequence[Fit], machines: Machines) -> tuple[Fit | None, list[str]]:
    each = run.batch.global_batch_size // machines.ranks
    wanted = min(run.batch.micro_batch_size, each)
    chosen = next((fit for fit in fits if fit.micro >= wanted), None) or max(fits, key=lambda fit: fit.micro)
    if not chosen.micro:
        return None, [
            f"not even one sample fits into {machines.memory:g} GiB, whatever is sharded: activations of one sample "
            "and the frozen networks alone are too large; set activation_checkpointing, or cut smaller"
        ]
    reasons = []
    skipped = fits[: fits.index(chosen)]
    if skipped:
        reasons.append(
            f"{skipped[-1].name} holds {skipped[-1].micro} samples of the {wanted} that batch.micro_batch_size asks for"
        )
    reasons.append(
        f"{chosen.name} holds {chosen.micro} samples of the {each} that a step has for each rank: "
        f"{each // chosen.micro} micro-batch(es) a step"
    )
    later = fits[fits.index(chosen) + 1 :]
    if later:
        spared = (chosen.held.device - later[0].held.device) / GIB
        seconds = later[0].pace.seconds - chosen.pace.seconds
        reasons.append(
            f"{later[0].name} would spare {spared:.1f} GiB a rank and take {seconds:+.3f} s a step; a checkpoint "
            "takes the same bytes at stages 1 to 3, on any number of ranks"
        )
    if chosen.pace.sending > chosen.pace.computing:
        reasons.append("ranks spend most of a step on sending: fewer of them, or a larger global batch, cost less")
    return chosen, reasons


def _nearest(total: int, ranks: int) -> str:
    below = total // ranks * ranks
    return " or ".join(str(size) for size in (below, below + ranks) if size)
