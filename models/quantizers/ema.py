"""A codebook that follows the mean of the features that chose each code: van den Oord et al. 2017, appendix A.1."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Count, Decay, Positive, Weight, check_ranges
from ..layers.float32_buffers import Float32Buffers
from .base import CodeStatistics, Quantizer, QuantizerOutput, flatten_grid, straight_through, unflatten_grid
from .codebook_init import k_means, replace_dead_codes, replaced
from .vq import check_codebook, nearest_codes, note_idle


@dataclass(frozen=True)
class EMAConfig:
    """A codebook without gradient."""

    kind: Literal["ema"] = "ema"
    can_replace_codes: ClassVar[bool] = True
    codebook_size: Count = 1024
    commitment_weight: Weight = 0.25  # weight of the commitment
    decay: Decay = 0.99  # of the averages, a step
    eps: Positive = 1e-5  # Laplace smoothing of the counts
    replace_dead_after: Count | None = None  # steps; None never moves a code
    codebook_init: Literal["k_means", "normal"] = "k_means"  # of the first batch's features, or of deviation 1
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codebook_size)

    def build(self, dim: int) -> "EMAQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return EMAQuantizer(self, dim)


class EMACodebook(Float32Buffers):
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


class EMAQuantizer(Quantizer):
    """Replaces every feature by the nearest code; features move to codes, codes move by ``post_step_update`` alone."""

    idle: Tensor

    def __init__(self, config: EMAConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.starts_from_features = config.codebook_init == "k_means"
        self.reads_candidates = config.replace_dead_after is not None
        self.embedding = EMACodebook(torch.randn(config.codebook_size, dim))
        self.register_buffer("idle", torch.zeros(config.codebook_size, dtype=torch.int64))  # steps since last chosen

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); the loss is the commitment alone."""
        rows = flatten_grid(z)
        indices, chosen = nearest_codes(rows, self.embedding.weight)
        loss = self.config.commitment_weight * F.mse_loss(rows, chosen)
        return QuantizerOutput(straight_through(unflatten_grid(chosen, z), z), unflatten_grid(indices, z), loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        return unflatten_grid(F.embedding(indices.flatten(), self.embedding.weight), indices[:, None])

    @torch.no_grad()
    def code_statistics(self, latents: Tensor, indices: Tensor) -> CodeStatistics:
        """Counts of the codes and sums of the features that chose them, on this rank alone."""
        counts, _ = super().code_statistics(latents, indices)
        sums = torch.zeros_like(self.embedding.weight).index_add_(0, indices.flatten(), flatten_grid(latents))
        return CodeStatistics(counts, sums)

    @torch.no_grad()
    def post_step_update(self, observed: CodeStatistics, candidates: Tensor, seed: int) -> None:
        """Moves the codebook in place: equations 6 to 8 of the appendix, then revival of idle codes."""
        averages, decay, epsilon = self.embedding, self.config.decay, self.config.eps
        averages.cluster_size.lerp_(observed.counts, 1 - decay)
        averages.embed_avg.lerp_(observed.sums, 1 - decay)
        total = averages.cluster_size.sum()
        smoothed = (averages.cluster_size + epsilon) * total / (total + self.codebook_size * epsilon)
        averages.weight.copy_(averages.embed_avg / smoothed[:, None])
        if self.config.replace_dead_after is not None:
            self._replace_dead_codes(observed.counts, candidates, seed, self.config.replace_dead_after)

    def _replace_dead_codes(self, counts: Tensor, candidates: Tensor, seed: int, replace_dead_after: int) -> None:
        note_idle(self.idle, counts)
        dead = self.idle > replace_dead_after
        book = replace_dead_codes(self.embedding.weight, self.idle, replace_dead_after, candidates, seed)
        if book is not None:
            self.embedding.place(dead, book[dead])

    @torch.no_grad()
    def replace_dead_codes(self, dead: Tensor, candidates: Tensor, seed: int) -> None:
        """Puts the marked codes on candidates, in place."""
        self.idle[dead] = 0
        self.embedding.place(dead, replaced(self.embedding.weight, dead, candidates, seed)[dead])

    @torch.no_grad()
    def init_codebook(self, candidates: Tensor, seed: int) -> None:
        """Puts the codebook on the k-means of (N, C) features."""
        book = k_means(candidates, self.codebook_size, seed)
        self.embedding.place(torch.arange(self.codebook_size, device=book.device), book)
