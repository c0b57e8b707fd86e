"""Sequences that several ranks share: every rank holds some positions, and in attention all of them and some heads.

Attention mixes positions and knows no other head, all else mixes channels and knows no other position: so two exchanges
around attention suffice (DeepSpeed Ulysses, Jacobs et al. 2023). The models only know that there is somebody to
exchange with.

Shapes: B samples, R ranks, T positions (a multiple of R), C channels, D channels of a head.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Exchange(Protocol):
    """What the ranks that share a sequence hand each other. Every one of them must call each method alike."""

    ranks: int
    rank: int

    def to_heads(self, x: Tensor) -> Tensor:
        """(B, heads, T / R, D) of own positions to (B, heads / R, T, D) of own heads."""

    def to_positions(self, x: Tensor) -> Tensor:
        """The way back."""

    def whole(self, x: Tensor) -> Tensor:
        """(B, T / R, C) of own positions to (B, T, C) on every rank.

        What every rank computes from it is the same. The gradient that reaches a rank's own positions is R times that
        of its result, so that the mean of parameters' gradients over ranks is that of the whole sequence.
        """


def part(x: Tensor, exchange: Exchange) -> Tensor:
    """This rank's positions (..., T / R, C) of (..., t, C), after zeros behind the last have made t a multiple of R."""
    padded = F.pad(x, (0, 0, 0, -x.shape[-2] % exchange.ranks))
    each = padded.shape[-2] // exchange.ranks
    return padded.narrow(-2, exchange.rank * each, each)
