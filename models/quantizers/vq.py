"""The nearest of K learned vectors: van den Oord et al. 2017, as in Esser et al. 2021."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Count, Weight, check_ranges
from .base import Codebook, Observed, Quantized, Quantizer, grid, nearest, straight_through, vectors
from .codebook_init import k_means, replaced, revive


@dataclass(frozen=True)
class VQConfig:
    """A codebook trained by gradient.

    Low-dimensional factorised codes (Yu et al. 2022) are a small ``embed_dim`` of the autoencoder: its 1x1
    convolutions before and after the quantizer are the two projections.
    """

    kind: Literal["vq"] = "vq"
    codes: Count = 1024
    beta: Weight = 0.25  # weight of the commitment: how hard features are pulled to their code
    legacy_beta: bool = False  # as the released checkpoints: beta on the codebook's term, commitment at weight 1
    weight: Weight = 1.0  # of the whole loss
    revive_after: Count | None = None  # steps; None never moves a code
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codes, self.revive_after)
        if self.beta < 0 or self.weight < 0:
            raise ValueError(f"beta and weight must not be negative, got {self.beta} and {self.weight}")

    def build(self, dim: int) -> "VectorQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return VectorQuantizer(self, dim)


class VectorQuantizer(Quantizer):
    """Replaces every feature by the nearest code; codes and features are pulled to each other."""

    idle: Tensor

    def __init__(self, config: VQConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codes = config.codes
        bound = 1 / config.codes
        self.embedding = Codebook(torch.empty(config.codes, dim).uniform_(-bound, bound))
        self.register_buffer("idle", torch.zeros(config.codes, dtype=torch.int64))  # steps since last chosen

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes (B, C, h, w); the loss is equation 4 of Esser et al. 2021 without its first term."""
        rows = vectors(z)
        indices, chosen = self.embedding(lambda book: search(rows, book))
        book_loss, commitment = F.mse_loss(chosen, rows.detach()), F.mse_loss(rows, chosen.detach())
        if self.config.legacy_beta:
            book_loss, commitment = commitment, book_loss
        loss = self.config.weight * (book_loss + self.config.beta * commitment)
        features = straight_through(grid(chosen, z), z)
        return Quantized(features, grid(indices, z), loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        rows: Tensor = self.embedding(lambda book: F.embedding(indices.flatten(), book))
        return grid(rows, indices[:, None])

    @torch.no_grad()
    def upkeep(self, observed: Observed, candidates: Tensor, seed: int) -> Tensor | None:
        """Counts idle steps; returns the codebook with its idle codes revived, if any were."""
        if self.config.revive_after is None:
            return None
        note_idle(self.idle, observed.counts)
        return revive(self.embedding.weight, self.idle, self.config.revive_after, candidates, seed)

    @torch.no_grad()
    def revive(self, dead: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """The codebook with the marked codes on candidates."""
        self.idle[dead] = 0
        return replaced(self.embedding.weight, dead, candidates, seed)

    @torch.no_grad()
    def initialise(self, candidates: Tensor, seed: int) -> Tensor:
        """The k-means of (N, C) features."""
        return k_means(candidates, self.codes, seed)


def search(rows: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (N,) and float32 vectors (N, C) of the codes nearest to (N, C) rows."""
    indices = nearest(rows, book)
    return indices, F.embedding(indices, book).float()


def note_idle(idle: Tensor, counts: Tensor) -> None:
    """One more idle step for every code that was not chosen, none for the others; in place."""
    idle.add_(1).masked_fill_(counts > 0, 0)


def check_codebook(codes: int, revive_after: int | None) -> None:
    """Raises ValueError for a codebook that cannot be."""
    if codes < 2:
        raise ValueError(f"codes must be at least 2, got {codes}")
    if revive_after is not None and revive_after < 1:
        raise ValueError(f"revive_after must be at least 1 step, or null for never, got {revive_after}")
