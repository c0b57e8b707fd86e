"""The nearest of K learned vectors: van den Oord et al. 2017, as in Esser et al. 2021."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Count, Weight, check_ranges
from .base import (
    Codebook,
    CodeStatistics,
    Quantizer,
    QuantizerOutput,
    flatten_grid,
    nearest,
    straight_through,
    unflatten_grid,
)
from .codebook_init import k_means, replace_dead_codes, replaced


@dataclass(frozen=True)
class VQConfig:
    """A codebook trained by gradient.

    Low-dimensional factorised codes (Yu et al. 2022) are a small ``embed_dim`` of the autoencoder: its 1x1
    convolutions before and after the quantizer are the two projections.
    """

    kind: Literal["vq"] = "vq"
    can_replace_codes: ClassVar[bool] = True
    codebook_size: Count = 1024
    commitment_weight: Weight = 0.25  # weight of the commitment: how hard features are drawn to their code
    legacy_beta: bool = False  # as the released checkpoints: beta on the codebook's term, commitment at weight 1
    codebook_weight: Weight = 1.0  # of the whole loss
    replace_dead_after: Count | None = None  # steps; None never moves a code
    # k_means of the first batch's features, or uniform in [-1 / K, 1 / K] as the published models started
    codebook_init: Literal["k_means", "uniform"] = "k_means"
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codebook_size)

    def build(self, dim: int) -> "VectorQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return VectorQuantizer(self, dim)


class VectorQuantizer(Quantizer):
    """Replaces every feature by the nearest code; codes and features are drawn to each other."""

    idle: Tensor

    def __init__(self, config: VQConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.starts_from_features = config.codebook_init == "k_means"
        self.reads_candidates = config.replace_dead_after is not None
        bound = 1 / config.codebook_size
        self.embedding = Codebook(torch.empty(config.codebook_size, dim).uniform_(-bound, bound))
        self.register_buffer("idle", torch.zeros(config.codebook_size, dtype=torch.int64))  # steps since last chosen

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); the loss is equation 4 of Esser et al. 2021 without its first term."""
        rows = flatten_grid(z)
        indices, chosen = self.embedding(lambda book: nearest_codes(rows, book))
        book_loss, commitment = F.mse_loss(chosen, rows.detach()), F.mse_loss(rows, chosen.detach())
        if self.config.legacy_beta:
            book_loss, commitment = commitment, book_loss
        loss = self.config.codebook_weight * (book_loss + self.config.commitment_weight * commitment)
        features = straight_through(unflatten_grid(chosen, z), z)
        return QuantizerOutput(features, unflatten_grid(indices, z), loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        rows: Tensor = self.embedding(lambda book: F.embedding(indices.flatten(), book))
        return unflatten_grid(rows, indices[:, None])

    @torch.no_grad()
    def post_step_update(self, observed: CodeStatistics, candidates: Tensor, seed: int) -> Tensor | None:
        """Counts idle steps; returns the codebook with its idle codes revived, if any were."""
        if self.config.replace_dead_after is None:
            return None
        note_idle(self.idle, observed.counts)
        return replace_dead_codes(self.embedding.weight, self.idle, self.config.replace_dead_after, candidates, seed)

    @torch.no_grad()
    def replace_dead_codes(self, dead: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """The codebook with the marked codes on candidates."""
        self.idle[dead] = 0
        return replaced(self.embedding.weight, dead, candidates, seed)

    @torch.no_grad()
    def init_codebook(self, candidates: Tensor, seed: int) -> Tensor:
        """The k-means of (N, C) features."""
        return k_means(candidates, self.codebook_size, seed)


def nearest_codes(rows: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (N,) and float32 vectors (N, C) of the codes nearest to (N, C) rows."""
    indices = nearest(rows, book)
    return indices, F.embedding(indices, book).float()


def note_idle(idle: Tensor, counts: Tensor) -> None:
    """One more idle step for every code that was not chosen, none for the others; in place."""
    idle.add_(1).masked_fill_(counts > 0, 0)


def check_codebook(codes: int) -> None:
    """Raises ValueError for a codebook that cannot be."""
    if codes < 2:
        raise ValueError(f"codebook_size must be at least 2, got {codes}")
