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


USE_OCTAVES = 8  # from uniform use down, and up, that the bins of a histogram of code use reach
USE_BINS = 4 * USE_OCTAVES  # half an octave each; what lies beyond is in the first and in the last


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

    def dead(self) -> Tensor:
        """The number of codes that were not chosen in the window, ()."""
        return (self.age >= self.window).float().sum()

    def histogram(self) -> Tensor:
        """How many codes are used how often: (1 + USE_BINS,) numbers of codes that add up to K.

        The first is of those that were not chosen in the window. Bin b of the others has those whose decayed count is
        from 2 ** (b / 2 - USE_OCTAVES) times that of uniform use on.
        """
        alive = self.age < self.window
        relative = self.counts * len(self.counts) / self.counts.sum().clamp(min=1e-30)
        bins = (2 * (relative.clamp(min=1e-30).log2() + USE_OCTAVES)).floor().long().clamp(0, USE_BINS - 1) + 1
        return bins.masked_fill(~alive, 0).bincount(minlength=1 + USE_BINS).float()
