"""Keeps a discriminator from winning on little data: Tseng et al. 2021 (LeCAM)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Decay, Weight, check_ranges
from ..layers.float32_buffers import Float32Buffers


@dataclass(frozen=True)
class LeCAMConfig:
    """The weight of the regularisation, and how slowly its anchors move."""

    weight: Weight = 0.001
    decay: Decay = 0.999  # of the anchors, a step

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self) -> "LeCAM":
        """The regularisation, with its anchors at 0."""
        return LeCAM(self)


class LeCAM(Float32Buffers):
    """Holds the logits of real and fake images near the running mean of the other kind.

    The anchors are state: they belong in the checkpoint.
    """

    real: Tensor
    fake: Tensor

    def __init__(self, config: LeCAMConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("real", torch.zeros(()))  # running mean of the logits of real images
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The weighted penalty on a discriminator's logits, to be added to its loss, () float32: equation 3."""
        real_gap = F.relu(real.float() - self.fake).square().mean()
        fake_gap = F.relu(self.real - fake.float()).square().mean()
        return self.config.weight * (real_gap + fake_gap)

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Moves the anchors towards the () mean logits of a step; every rank must give the means over all ranks."""
        self.real.lerp_(real.float(), 1 - self.config.decay)
        self.fake.lerp_(fake.float(), 1 - self.config.decay)
