"""Mean and covariance of features, summed as they come, and the Frechet distance between two sets of them.

Shapes: N samples, D features of a sample.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Moments(NamedTuple):
    """A Gaussian fitted to features."""

    samples: int
    mean: Tensor  # (D,) float64
    covariance: Tensor  # (D, D) float64, with N - 1 in the denominator


class MomentSums:
    """The sums of which mean and covariance are made, in float64.

    Attributes:
        sums: (D + 1, D + 1): the sum over samples of the outer product of (1, features) with itself. It holds the
            count, the sums and the products, and sums of several parts of a set may be added up.
    """

    def __init__(self, dimensions: int, device: torch.device) -> None:
        self.sums = torch.zeros(dimensions + 1, dimensions + 1, dtype=torch.float64, device=device)

    def add(self, features: Tensor) -> None:
        """Take in (N, D) features of any floating type."""
        rows = F.pad(features.double(), (1, 0), value=1.0)
        self.sums += rows.t() @ rows

    def moments(self) -> Moments:
        """Mean and covariance of all that came.

        Raises:
            ValueError: fewer than two samples came.
        """
        count = self.sums[0, 0]
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {int(count)}; evaluate more")
        mean = self.sums[0, 1:] / count
        covariance = (self.sums[1:, 1:] - count * mean[:, None] * mean) / (count - 1)
        return Moments(int(count), mean, covariance)


def frechet_distance(one: Moments, other: Moments) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2): Frechet 1957; of Inception's features, the FID of Heusel et al. 2017.

    The trace of the root is the sum of the singular values of C^1/2 C'^1/2. So covariances that have no full rank, as
    those of fewer samples than features, cost no digits, where a root of their product would.
    """
    gap = (one.mean - other.mean).square().sum()
    overlap = torch.linalg.svdvals(_root(one.covariance) @ _root(other.covariance)).sum()
    return float(gap + one.covariance.trace() + other.covariance.trace() - 2 * overlap)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root; eigenvalues that are nothing but rounding are 0."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = (vectors * values.masked_fill(values <= noise, 0).sqrt()) @ vectors.t()
    return root
