"""One bit for each channel, its sign: Yu et al. 2023 (MAGVIT-v2), with the entropy terms that keep all codes in use.

Shapes: N vectors, C channels, which are the bits of a code, K = 2^C codes.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..bounds import Weight, Width, check_ranges
from ..layers.cross_rank_statistics import CrossRankStatistics
from .base import Quantizer, QuantizerOutput, flatten_grid, straight_through, unflatten_grid
from .entropy import EntropyConfig, batch_mean, entropy


@dataclass(frozen=True)
class LFQConfig:
    """A code of ``bits`` signs. The first channel is the lowest bit."""

    kind: Literal["lfq"] = "lfq"
    can_replace_codes: ClassVar[bool] = False
    bits: Width = 10
    commitment_weight: Weight = 0.25  # weight of the commitment
    entropy: EntropyConfig = field(default_factory=EntropyConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 2 <= self.bits <= 24:
            raise ValueError(f"bits must lie in 2 to 24, got {self.bits}: the entropy terms hold all 2^bits codes")

    @property
    def codebook_size(self) -> int:
        """All combinations of signs."""
        return int(2**self.bits)

    @property
    def dimension(self) -> int:
        """The only width of features it takes."""
        return self.bits

    def build(self, dim: int) -> "LookupFreeQuantizer":
        """A quantizer of features with ``dim`` channels, one for each bit."""
        if dim != self.bits:
            raise ValueError(f"lfq with {self.bits} bits takes {self.bits} channels, got {dim}")
        return LookupFreeQuantizer(self)


class LookupFreeQuantizer(Quantizer, CrossRankStatistics):
    """Replaces every channel by its sign."""

    def __init__(self, config: LFQConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); the loss is the commitment and, in training, the entropy terms."""
        rows = flatten_grid(z)
        signs = (rows > 0) * 2.0 - 1.0
        indices = ((rows > 0).long() << torch.arange(self.config.bits, device=z.device)).sum(1)
        loss = self.config.commitment_weight * F.mse_loss(rows, signs)
        if self.training and self.config.entropy.weight > 0:
            with torch.autocast(z.device.type, enabled=False):
                loss = loss + self._entropy_loss(rows)
        return QuantizerOutput(straight_through(unflatten_grid(signs, z), z), unflatten_grid(indices, z), loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) signs."""
        bits = indices[..., None] >> torch.arange(self.config.bits, device=indices.device) & 1
        return rearrange(bits * 2.0 - 1.0, "b h w c -> b c h w")

    def _entropy_loss(self, rows: Tensor) -> Tensor:
        """Both entropies of softmax(2 z.c / temperature) over all codes c, from (N, C) features.

        That distribution is a product over the bits. So an entropy is the sum of the bits' entropies; and the mean
        over the batch, which is no product, is a matrix product of the two halves' distributions.
        """
        on = torch.sigmoid(4 * rows / self.config.entropy.temperature)  # (N, C), chance that a bit is 1
        bits = torch.stack([1 - on, on], dim=-1)  # (N, C, 2)
        middle = self.config.bits // 2
        low, high = product(bits[:, :middle]), product(bits[:, middle:])
        mean = batch_mean(high.t() @ low, len(rows), self.reduce).flatten()  # (K,)
        mean_entropy = batch_mean(entropy(bits).sum(), len(rows), self.reduce)
        return self.config.entropy.loss(mean_entropy, mean)


def product(bits: Tensor) -> Tensor:
    """Distributions (N, C, 2) of independent bits to that of the number they spell, lowest bit first: (N, 2^C)."""
    numbers = bits[:, 0]
    for bit in bits[:, 1:].unbind(1):
        numbers = rearrange(bit[:, :, None] * numbers[:, None, :], "n high low -> n (high low)")
    return numbers
