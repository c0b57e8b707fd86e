"""Codes drawn from a distribution that a convolution predicts: Jang et al. 2017, as in Ramesh et al. 2021 (DALL-E)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from ..bounds import Count, Positive, Weight, check_ranges
from .base import Codebook, Quantizer, QuantizerOutput, unflatten_grid
from .vq import check_codebook


@dataclass(frozen=True)
class GumbelConfig:
    """A relaxed categorical, sampled hard with the gradient of the soft sample."""

    kind: Literal["gumbel"] = "gumbel"
    can_replace_codes: ClassVar[bool] = False
    codebook_size: Count = 8192
    kl_weight: Weight = 5e-4  # of the divergence from the uniform distribution; the released f8 model: 1e-8
    temperature_start: Positive = 1.0
    temperature_end: Positive = 0.0625
    temperature_steps: Count = 150_000  # along a cosine
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codebook_size)
        if self.temperature_end > self.temperature_start:
            raise ValueError(
                f"the temperature must fall from temperature_start to temperature_end > 0, "
                f"got {self.temperature_start} and {self.temperature_end}"
            )

    def build(self, dim: int) -> "GumbelQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return GumbelQuantizer(self, dim)

    def temperature(self, step: int) -> float:
        """Of the relaxation at an optimizer step."""
        way = min(step / self.temperature_steps, 1.0)
        span = self.temperature_start - self.temperature_end
        return self.temperature_end + span * (1 + math.cos(math.pi * way)) / 2


class GumbelQuantizer(Quantizer):
    """In training a code is drawn for every place, with torch's global generator; in evaluation it is the likeliest."""

    def __init__(self, config: GumbelConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.temperature = config.temperature(0)
        self.embed = Codebook(torch.randn(config.codebook_size, dim))
        self.proj = nn.Conv2d(dim, config.codebook_size, 1)

    def anneal(self, step: int) -> None:
        """Sets the temperature of this step."""
        self.temperature = self.config.temperature(step)

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); the loss is the divergence of the distributions from the uniform one."""
        logits: Tensor = self.proj(z)  # (B, K, h, w)
        with torch.autocast(z.device.type, enabled=False):
            logits = logits.float()
            chances = logits.log_softmax(1)
            divergence = (chances.exp() * (chances + math.log(self.codebook_size))).sum(1).mean()
            if self.training:
                shares = F.gumbel_softmax(logits, self.temperature, hard=True, dim=1)
            else:
                shares = F.one_hot(logits.argmax(1), self.codebook_size).movedim(-1, 1).float()
            features = self.embed(lambda book: einsum(shares, book.float(), "b k h w, k c -> b c h w"))
        return QuantizerOutput(features.to(z.dtype), shares.argmax(1), self.config.kl_weight * divergence)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        rows: Tensor = self.embed(lambda book: F.embedding(indices.flatten(), book))
        return unflatten_grid(rows, indices[:, None])
