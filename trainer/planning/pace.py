"""How long a step takes and what it asks of nodes: operations, bytes between ranks, samples, room for a save.

docs/clusters.md has every formula. Letters: P trained parameters of a network, R ranks, A micro-batches a step, b bytes
of a number in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...models.bounds import Count, Positive, PositiveShare, Width, check_ranges
from ..data.config import DataConfig
from ..data.crops import CodeCropConfig, TamingCropConfig
from ..distributed.engine import EngineConfig
from ..jobs.networks import BYTES, TrainedNetwork
from ..jobs.run import Run
from ..prior.config import PriorRun

# Dense TFLOP/s of an H100 SXM by its data sheet. Convolutions in fp32 run in TF32 unless torch is set otherwise,
# matrix products do not.
PEAKS = {"bf16": 989.0, "fp16": 989.0, "tf32": 495.0, "fp32": 67.0}
# Reached on one H200 in bf16, batches of 64 codes' grids and of 32 images, before kernels were fused (2026-11-27).
MFU = {"prior": 0.28, "vqgan": 0.12}
INSIDE, BETWEEN = 300.0, 40.0  # GB/s a GPU: NVLink of one node, a 400 Gbit/s network of several
COPY = 4e9  # bytes/s from a rank's state into the host's memory: bench checkpoint, docs/clusters.md
# CPU ms of a 500 x 375 JPEG or a 16 x 16 grid, read, checked, cut and put into a batch (2-core x86, 2026-11-28).
READING = {"native": 1.2, "resized": 3.8, "taming": 2.6, "codes": 0.02, "whole": 1.2}


@dataclass(frozen=True)
class Machines:
    """What the run is to be trained on.

    Attributes:
        nodes: machines.
        gpus: of a node.
        memory: of a GPU, in GiB.
        teraflops: of a GPU at its best, dense; None for an H100's in the precision of the run.
        mfu: share of that which training reaches; None for what was measured of this kind of run.
        bandwidth: GB/s that a GPU sends to others; None for NVLink in one node, 400 Gbit/s a GPU between several.
    """

    nodes: Count = 1
    gpus: Width = 8
    memory: Positive = 80.0
    teraflops: Positive | None = None
    mfu: PositiveShare | None = None
    bandwidth: Positive | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def ranks(self) -> int:
        """One a GPU, R."""
        return self.nodes * self.gpus

    @property
    def bytes_per_second(self) -> float:
        """What a GPU sends to others."""
        return 1e9 * (self.bandwidth or (INSIDE if self.nodes == 1 else BETWEEN))

    def peak(self, run: Run) -> tuple[str, float]:
        """The arithmetic that a run computes in, and the TFLOP/s of a GPU in it."""
        training = run.training if isinstance(run, PriorRun) else run.generator_training
        precision: str = training.engine.precision
        kind = "tf32" if precision == "fp32" and not isinstance(run, PriorRun) else precision
        return kind, self.teraflops or PEAKS[kind]

    def reached(self, run: Run) -> float:
        """The share of that which training reaches."""
        return self.mfu or MFU["prior" if isinstance(run, PriorRun) else "vqgan"]


class Pace(NamedTuple):
    """The seconds of a step."""

    computing: float
    sending: float  # of gradients and weights to other ranks
    overlapped: bool  # whether the one hides behind the other

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return max(self.computing, self.sending) if self.overlapped else self.computing + self.sending


class Reading(NamedTuple):
    """What a run asks of its data."""

    samples: float  # a second and node
    milliseconds: float  # of a core, for one
    cores: float  # of a node


class Saving(NamedTuple):
    """What a save takes of the first node, which also keeps the weights for use, and of the others."""

    first: float  # bytes of the host's memory
    others: float
    stall: float  # seconds that training waits while the fullest rank's state is copied


def pace(
    run: Run, networks: Sequence[TrainedNetwork], flops: float, engine: EngineConfig, micro: int, machines: Machines
) -> Pace:
    """The time of a step when the networks are sharded as ``engine`` says.

    Args:
        flops: of one sample, forward and backward.
        micro: samples of a micro-batch.
    """
    each = run.batch.global_batch_size / machines.ranks
    computing = each * flops / (machines.peak(run)[1] * 1e12 * machines.reached(run))
    micro_batches = each / max(micro, 1)
    others = (machines.ranks - 1) / machines.ranks
    sent = sum(BYTES[network.training.engine.precision] * network.parameters for network in networks) * others
    # Each of these moves every number once: gradients are reduced, weights gathered, at stage 3 for either direction.
    times = {0: 2.0, 1: 2.0, 2: micro_batches + 1, 3: 3 * micro_batches}[engine.zero_stage]
    return Pace(computing, times * sent / machines.bytes_per_second, overlapped=engine.zero_stage == 3)


def reading(data: DataConfig, global_batch: int, step_seconds: float, nodes: int) -> Reading:
    """What a run asks of its data while it trains at this pace."""
    crop = data.crop
    if crop is None:
        kind = "whole"
    elif isinstance(crop, CodeCropConfig):
        kind = "codes"
    elif isinstance(crop, TamingCropConfig):
        kind = "taming"
    else:
        kind = "native" if crop.scale == (1.0, 1.0) else "resized"
    samples = global_batch / step_seconds / nodes / data.crops_per_image
    return Reading(samples, READING[kind], samples * READING[kind] / 1e3)


def saving(networks: Sequence[TrainedNetwork], engine: EngineConfig, machines: Machines) -> Saving:
    """What a save takes: each rank copies its part, rank 0 also the network and the weights for use."""
    share = whole = 0.0
    for network in networks:
        numbers, weights = network.parameters, BYTES[network.training.engine.precision]
        kept = max(network.copies - 1, 0)  # averages; the weights for use are the last copy
        states = 12 + 4 * kept + (weights if engine.zero_stage == 3 else 0)
        share += numbers * states / machines.ranks
        whole += numbers * ((0 if engine.zero_stage == 3 else weights) + 4 * (network.copies > 0))
    return Saving(machines.gpus * share + whole, machines.gpus * share, (share + whole) / COPY)
