"""How well a codebook is used, from the counts of its codes: (K,) tensors that may be summed over steps and ranks."""

import torch
from torch import Tensor
from torch.special import entr

from ..layers.float32_buffers import Float32Buffers


def perplexity(counts: Tensor) -> Tensor:
    """The number of equally used codes that would carry as much: exp of the entropy, from 1 to K; 1 for no counts."""
    shares = counts.double() / counts.double().sum().clamp(min=1)
    entropy: Tensor = entr(shares).sum()
    return entropy.exp().float()


def usage(counts: Tensor) -> Tensor:
    """The share of codes that were chosen at all, from 0 to 1."""
    return (counts > 0).float().mean()


class RollingUse(Float32Buffers):
    """The use of a codebook over its last steps. Its buffers are state: they belong in the checkpoint.

    Ranks may assume: given the same counts, those of all ranks, every rank knows the same.

    Args:
        codes: K.
        window: in steps; a code counts as used that was chosen in it, and a step's weight in the perplexity decays
            by one part in ``window`` a step.
    """

    counts: Tensor
    age: Tensor

    def __init__(self, codes: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("age", torch.full((codes,), window))  # steps since last chosen; int64

    @torch.no_grad()
    def update(self, counts: Tensor) -> None:
        """Adds a step's (K,) counts."""
        self.counts.mul_(1 - 1 / self.window).add_(counts)
        self.age.add_(1).masked_fill_(counts > 0, 0)

    def usage(self) -> Tensor:
        """The share of codes that were chosen in the window, ()."""
        return (self.age < self.window).float().mean()

    def perplexity(self) -> Tensor:
        """Of the decayed counts, ()."""
        return perplexity(self.counts)
