"""A codebook that follows the mean of the features that chose each code: van den Oord et al. 2017, appendix A.1."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Count, Decay, Positive, Weight, check_ranges
from ..layers.float32_buffers import Float32Buffers
from .base import Observed, Quantized, Quantizer, grid, straight_through, vectors
from .codebook_init import k_means, replaced, revive
from .vq import check_codebook, note_idle, search


@dataclass(frozen=True)
class EMAConfig:
    """A codebook without gradient."""

    kind: Literal["ema"] = "ema"
    codes: Count = 1024
    beta: Weight = 0.25  # weight of the commitment
    decay: Decay = 0.99  # of the averages, a step
    epsilon: Positive = 1e-5  # Laplace smoothing of the counts
    revive_after: Count | None = None  # steps; None never moves a code
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codes, self.revive_after)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    def build(self, dim: int) -> "MovingAverageQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return MovingAverageQuantizer(self, dim)


class Averages(Float32Buffers):
    """The codebook and the two running averages it is the quotient of; on every rank whole, alike and in float32."""

    weight: Tensor
    cluster_size: Tensor
    embed_avg: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)  # (K, C)
        self.register_buffer("cluster_size", torch.ones(len(weight)))  # (K,), decayed counts
        self.register_buffer("embed_avg", weight.clone())  # (K, C), decayed sums

    def place(self, rows: Tensor, book: Tensor) -> None:
        """Puts codes somewhere new, as if each had stood for one feature there."""
        self.weight[rows] = book
        self.embed_avg[rows] = book
        self.cluster_size[rows] = 1.0


class MovingAverageQuantizer(Quantizer):
    """Replaces every feature by the nearest code; features are pulled to codes, codes move by ``upkeep`` alone."""

    idle: Tensor

    def __init__(self, config: EMAConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codes = config.codes
        self.embedding = Averages(torch.randn(config.codes, dim))
        self.register_buffer("idle", torch.zeros(config.codes, dtype=torch.int64))  # steps since last chosen

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes (B, C, h, w); the loss is the commitment alone."""
        rows = vectors(z)
        indices, chosen = search(rows, self.embedding.weight)
        loss = self.config.beta * F.mse_loss(rows, chosen)
        return Quantized(straight_through(grid(chosen, z), z), grid(indices, z), loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        return grid(F.embedding(indices.flatten(), self.embedding.weight), indices[:, None])

    @torch.no_grad()
    def observe(self, latents: Tensor, indices: Tensor) -> Observed:
        """Counts of the codes and sums of the features that chose them, on this rank alone."""
        counts, _ = super().observe(latents, indices)
        sums = torch.zeros_like(self.embedding.weight).index_add_(0, indices.flatten(), vectors(latents))
        return Observed(counts, sums)

    @torch.no_grad()
    def upkeep(self, observed: Observed, candidates: Tensor, seed: int) -> None:
        """Moves the codebook in place: equations 6 to 8 of the appendix, then revival of idle codes."""
        averages, decay, epsilon = self.embedding, self.config.decay, self.config.epsilon
        averages.cluster_size.lerp_(observed.counts, 1 - decay)
        averages.embed_avg.lerp_(observed.sums, 1 - decay)
        total = averages.cluster_size.sum()
        smoothed = (averages.cluster_size + epsilon) * total / (total + self.codes * epsilon)
        averages.weight.copy_(averages.embed_avg / smoothed[:, None])
        if self.config.revive_after is not None:
            self._revive(observed.counts, candidates, seed, self.config.revive_after)

    def _revive(self, counts: Tensor, candidates: Tensor, seed: int, revive_after: int) -> None:
        note_idle(self.idle, counts)
        dead = self.idle > revive_after
        book = revive(self.embedding.weight, self.idle, revive_after, candidates, seed)
        if book is not None:
            self.embedding.place(dead, book[dead])

    @torch.no_grad()
    def revive(self, dead: Tensor, candidates: Tensor, seed: int) -> None:
        """Puts the marked codes on candidates, in place."""
        self.idle[dead] = 0
        self.embedding.place(dead, replaced(self.embedding.weight, dead, candidates, seed)[dead])

    @torch.no_grad()
    def initialise(self, candidates: Tensor, seed: int) -> None:
        """Puts the codebook on the k-means of (N, C) features."""
        book = k_means(candidates, self.codes, seed)
        self.embedding.place(torch.arange(self.codes, device=book.device), book)
