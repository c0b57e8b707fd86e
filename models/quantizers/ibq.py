"""All codes learn at every step, through the softmax over their affinities to a feature: Shi et al. 2024 (IBQ).

Shapes: N vectors, C channels, K codes.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Count, Weight, check_ranges
from ..layers.cross_rank_statistics import CrossRankStatistics
from .base import Codebook, Quantizer, QuantizerOutput, flatten_grid, straight_through, unflatten_grid
from .entropy import EntropyConfig, batch_mean, entropy
from .vq import check_codebook


@dataclass(frozen=True)
class IBQConfig:
    """A codebook chosen by inner product. Holds the (N, K) affinities of a batch in float32."""

    kind: Literal["ibq"] = "ibq"
    can_replace_codes: ClassVar[bool] = False
    codebook_size: Count = 16_384
    codebook_term_weight: Weight = 0.25  # weight of the codebook's term
    codebook_weight: Weight = 1.0  # of the three squared terms
    entropy: EntropyConfig = field(default_factory=lambda: EntropyConfig(weight=0.05))
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codebook_size)

    def build(self, dim: int) -> "IndexBackpropagationQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return IndexBackpropagationQuantizer(self, dim)


class IndexBackpropagationQuantizer(Quantizer, CrossRankStatistics):
    """Replaces every feature by the code of largest inner product; the choice passes gradient by its softmax."""

    def __init__(self, config: IBQConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        bound = 1 / config.codebook_size
        self.embedding = Codebook(torch.empty(config.codebook_size, dim).uniform_(-bound, bound))

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); the loss has the paper's double quantization and, in training, the entropy terms."""
        rows = flatten_grid(z)
        with torch.autocast(z.device.type, enabled=False):
            affinities, soft, chosen = self.embedding(lambda book: choose(rows, book.float()))
        squares = (
            F.mse_loss(soft, rows)
            + F.mse_loss(rows, chosen.detach())
            + self.config.codebook_term_weight * F.mse_loss(chosen, rows.detach())
        )
        loss = self.config.codebook_weight * squares
        if self.training and self.config.entropy.weight > 0:
            loss = loss + self._entropy_loss(affinities)
        return QuantizerOutput(unflatten_grid(soft, z).to(z.dtype), unflatten_grid(affinities.argmax(1), z), loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        rows: Tensor = self.embedding(lambda book: F.embedding(indices.flatten(), book))
        return unflatten_grid(rows, indices[:, None])

    def _entropy_loss(self, affinities: Tensor) -> Tensor:
        """Both entropies of the softmax over (N, K) affinities."""
        shares = (affinities / self.config.entropy.temperature).softmax(1)
        size = len(shares)
        mean = batch_mean(shares.sum(0), size, self.reduce)
        mean_entropy = batch_mean(entropy(shares).sum(), size, self.reduce)
        return self.config.entropy.loss(mean_entropy, mean)


def choose(rows: Tensor, book: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Affinities (N, K) of rows and codes; the chosen codes (N, C) with the choice's gradient, and without."""
    affinities = rows @ book.t()
    indices = affinities.argmax(1)
    hard = F.one_hot(indices, len(book)).to(affinities.dtype)
    shares = straight_through(hard, affinities.softmax(1))
    return affinities, shares @ book, F.embedding(indices, book)
