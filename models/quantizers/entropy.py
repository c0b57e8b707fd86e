"""Codes that are each chosen surely and all chosen equally often: the entropy terms of MAGVIT-v2 (Yu et al. 2023).

Shapes: N vectors, K codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import entr

from ..bounds import Positive, Weight, check_ranges
from ..layers.cross_rank_statistics import Reduce


@dataclass(frozen=True)
class EntropyConfig:
    """Weights of the entropies: ``weight * (per_sample_weight * mean of entropies - batch_weight * entropy)``."""

    weight: Weight = 0.1
    per_sample_weight: Weight = 1.0  # each vector's distribution over the codes is to be sharp
    batch_weight: Weight = 1.0  # the batch's is to be flat
    temperature: Positive = 0.01  # of the softmax from affinities to distributions

    def __post_init__(self) -> None:
        check_ranges(self)

    def loss(self, mean_entropy: Tensor, mean_distribution: Tensor) -> Tensor:
        """The two terms, weighted, () float32; in nats.

        Args:
            mean_entropy: () mean over the batch of each vector's entropy.
            mean_distribution: (..., K) mean over the batch of the distributions; leading axes are averaged.
        """
        flatness = entropy(mean_distribution).mean()
        return self.weight * (self.per_sample_weight * mean_entropy - self.batch_weight * flatness)


def entropy(distribution: Tensor) -> Tensor:
    """Of each distribution along the last axis, in nats; 0 log 0 is 0."""
    # Below the smallest normal number the slope of -p log p would be infinite.
    each: Tensor = entr(distribution.clamp(min=torch.finfo(distribution.dtype).tiny))
    return each.sum(-1)


def batch_mean(total: Tensor, size: int, reduce: Reduce) -> Tensor:
    """The mean over the batches of all ranks, from this rank's sum and how many vectors it is of."""
    both = reduce(torch.cat([total.flatten(), total.new_full((1,), size)]))
    return (both[:-1] / both[-1]).view_as(total)
