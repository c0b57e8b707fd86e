"""Precision and recall of a set of made images, by nearest neighbors among features: Kynkaanniemi et al. 2019.

Shapes: N real and M made samples, D features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 1024  # whose distances to all others are held at once


class PrecisionRecall(NamedTuple):
    """Two shares, from 0 to 1."""

    precision: float  # of made samples that lie within the real set
    recall: float  # of real samples that lie within the made set


def precision_recall(real: Tensor, made: Tensor, neighbors: int = 3) -> PrecisionRecall:
    """How much of each set lies within the other.

    A sample lies within a set if its distance to some member is at most that member's distance to its
    ``neighbors``-th nearest other member.

    Args:
        real, made: (N, D) and (M, D).
        neighbors: k; 3 in the paper.

    Raises:
        ValueError: a set has no more than ``neighbors`` samples.
    """
    if min(len(real), len(made)) <= neighbors:
        raise ValueError(
            f"precision and recall need more than {neighbors} samples of each kind, got {len(real)} real and "
            f"{len(made)} made ones"
        )
    return PrecisionRecall(
        _share_within(made, real, _radii(real, neighbors)), _share_within(real, made, _radii(made, neighbors))
    )


def _radii(members: Tensor, neighbors: int) -> Tensor:
    """(N,) distance of each member to its k-th nearest other; each is its own nearest."""
    found = [torch.cdist(rows, members).kthvalue(neighbors + 1).values for rows in torch.split(members, ROWS)]
    return torch.cat(found)


def _share_within(samples: Tensor, members: Tensor, radii: Tensor) -> float:
    inside = [(torch.cdist(rows, members) <= radii).any(dim=1) for rows in torch.split(samples, ROWS)]
    return torch.cat(inside).double().mean().item()
