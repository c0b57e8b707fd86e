"""The code that points the same way: unit vectors, compared by their angle. Yu et al. 2022 (ViT-VQGAN)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Count, Weight, check_ranges
from .base import Codebook, CodeStatistics, Quantizer, QuantizerOutput, flatten_grid, straight_through, unflatten_grid
from .codebook_init import k_means, replace_dead_codes, replaced
from .vq import check_codebook, nearest_codes, note_idle


@dataclass(frozen=True)
class CosineConfig:
    """Best with few dimensions: an ``embed_dim`` of 8 to 32 keeps a large codebook in use."""

    kind: Literal["cosine"] = "cosine"
    can_replace_codes: ClassVar[bool] = True
    codebook_size: Count = 4096
    commitment_weight: Weight = 0.25  # weight of the commitment
    codebook_weight: Weight = 1.0  # of the whole loss
    replace_dead_after: Count | None = None  # steps; None never moves a code
    # k_means of the directions of the first batch's features, or uniform over all directions
    codebook_init: Literal["k_means", "uniform"] = "k_means"
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codebook_size)

    def build(self, dim: int) -> "CosineQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return CosineQuantizer(self, dim)


class CosineQuantizer(Quantizer):
    """Brings features and codes to unit length, then replaces every feature by the nearest code."""

    idle: Tensor

    def __init__(self, config: CosineConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.starts_from_features = config.codebook_init == "k_means"
        self.reads_candidates = config.replace_dead_after is not None
        self.embedding = Codebook(F.normalize(torch.randn(config.codebook_size, dim), dim=1))
        self.register_buffer("idle", torch.zeros(config.codebook_size, dtype=torch.int64))  # steps since last chosen

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); features and loss are those of unit vectors."""
        rows = F.normalize(flatten_grid(z), dim=1)
        indices, chosen = self.embedding(lambda book: nearest_codes(rows, F.normalize(book.float(), dim=1)))
        loss = F.mse_loss(chosen, rows.detach()) + self.config.commitment_weight * F.mse_loss(rows, chosen.detach())
        features = unflatten_grid(straight_through(chosen, rows), z).to(z.dtype)
        return QuantizerOutput(features, unflatten_grid(indices, z), self.config.codebook_weight * loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) unit vectors."""
        rows: Tensor = self.embedding(lambda book: F.normalize(F.embedding(indices.flatten(), book).float(), dim=1))
        return unflatten_grid(rows, indices[:, None])

    @torch.no_grad()
    def post_step_update(self, observed: CodeStatistics, candidates: Tensor, seed: int) -> Tensor | None:
        """Counts idle steps; returns the codebook with its idle codes revived, if any were."""
        if self.config.replace_dead_after is None:
            return None
        note_idle(self.idle, observed.counts)
        directions = F.normalize(candidates.float(), dim=1)
        return replace_dead_codes(self.embedding.weight, self.idle, self.config.replace_dead_after, directions, seed)

    @torch.no_grad()
    def replace_dead_codes(self, dead: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """The codebook with the marked codes on the directions of candidates."""
        self.idle[dead] = 0
        return replaced(self.embedding.weight, dead, F.normalize(candidates.float(), dim=1), seed)

    @torch.no_grad()
    def init_codebook(self, candidates: Tensor, seed: int) -> Tensor:
        """The k-means of the directions of (N, C) features."""
        return F.normalize(k_means(F.normalize(candidates.float(), dim=1), self.codebook_size, seed), dim=1)
