"""What both tasks share around an optimizer step: sizes of batches, a network's training section, keyed randomness."""

from dataclasses import dataclass, field

import torch

from ..models.bounds import Count, check_ranges
from . import ranks
from .engine import EngineConfig
from .keys import mix
from .optimizer import OptimizerConfig
from .schema import MAY_CHANGE


@dataclass(frozen=True)
class BatchConfig:
    """How many samples an optimizer step sees, and how many of them a rank holds at once."""

    total: Count  # over all ranks and micro-batches
    micro: Count = field(metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.micro < 1 or self.total % self.micro:
            raise ValueError(f"total must be a multiple of micro, got total {self.total} and micro {self.micro}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How one network is optimized and sharded."""

    optimizer: OptimizerConfig
    engine: EngineConfig = field(default_factory=EngineConfig)


def reseed(seed: int, step: int) -> None:
    """Key torch's global randomness (dropout, noise) by step and rank, so that a resume needs no state of it."""
    torch.manual_seed(mix(seed, step, ranks.rank()))
