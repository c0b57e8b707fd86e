"""The code that points the same way: unit vectors, compared by their angle. Yu et al. 2022 (ViT-VQGAN)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Count, Weight, check_ranges
from .base import Codebook, Observed, Quantized, Quantizer, grid, straight_through, vectors
from .codebook_init import k_means, replaced, revive
from .vq import check_codebook, note_idle, search


@dataclass(frozen=True)
class CosineConfig:
    """Best with few dimensions: an ``embed_dim`` of 8 to 32 keeps a large codebook in use."""

    kind: Literal["cosine"] = "cosine"
    codes: Count = 4096
    beta: Weight = 0.25  # weight of the commitment
    weight: Weight = 1.0  # of the whole loss
    revive_after: Count | None = None  # steps; None never moves a code
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codes, self.revive_after)
        if self.beta < 0 or self.weight < 0:
            raise ValueError(f"beta and weight must not be negative, got {self.beta} and {self.weight}")

    def build(self, dim: int) -> "CosineQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return CosineQuantizer(self, dim)


class CosineQuantizer(Quantizer):
    """Brings features and codes to unit length, then replaces every feature by the nearest code."""

    idle: Tensor

    def __init__(self, config: CosineConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codes = config.codes
        self.embedding = Codebook(F.normalize(torch.randn(config.codes, dim), dim=1))
        self.register_buffer("idle", torch.zeros(config.codes, dtype=torch.int64))  # steps since last chosen

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes (B, C, h, w); features and loss are those of unit vectors."""
        rows = F.normalize(vectors(z), dim=1)
        indices, chosen = self.embedding(lambda book: search(rows, F.normalize(book.float(), dim=1)))
        loss = F.mse_loss(chosen, rows.detach()) + self.config.beta * F.mse_loss(rows, chosen.detach())
        features = grid(straight_through(chosen, rows), z).to(z.dtype)
        return Quantized(features, grid(indices, z), self.config.weight * loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) unit vectors."""
        rows: Tensor = self.embedding(lambda book: F.normalize(F.embedding(indices.flatten(), book).float(), dim=1))
        return grid(rows, indices[:, None])

    @torch.no_grad()
    def upkeep(self, observed: Observed, candidates: Tensor, seed: int) -> Tensor | None:
        """Counts idle steps; returns the codebook with its idle codes revived, if any were."""
        if self.config.revive_after is None:
            return None
        note_idle(self.idle, observed.counts)
        directions = F.normalize(candidates.float(), dim=1)
        return revive(self.embedding.weight, self.idle, self.config.revive_after, directions, seed)

    @torch.no_grad()
    def revive(self, dead: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """The codebook with the marked codes on the directions of candidates."""
        self.idle[dead] = 0
        return replaced(self.embedding.weight, dead, F.normalize(candidates.float(), dim=1), seed)

    @torch.no_grad()
    def initialise(self, candidates: Tensor, seed: int) -> Tensor:
        """The k-means of the directions of (N, C) features."""
        return F.normalize(k_means(F.normalize(candidates.float(), dim=1), self.codes, seed), dim=1)
