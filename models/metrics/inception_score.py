"""The inception score of Salimans et al. 2016: how surely a classifier names each image, and how many names it uses.

Shapes: N samples, C classes.
"""

import torch
from torch import Tensor
from torch.special import entr


class InceptionSums:
    """The sums of which the score of a set is made, in float64.

    Attributes:
        sums: (C + 2,): the samples, the sum of their entropies in nats, the sums of their probabilities. Sums of
            several parts of a set may be added up.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.sums = torch.zeros(classes + 2, dtype=torch.float64, device=device)

    def add(self, logits: Tensor) -> None:
        """Take in (N, C) logits."""
        shares = logits.double().softmax(dim=1)
        self.sums[0] += len(shares)
        self.sums[1] += entr(shares).sum()
        self.sums[2:] += shares.sum(dim=0)

    def score(self) -> float:
        """exp of the mean divergence of an image's classes from those of all images: 1 to C. Of one split."""
        mean = self.sums[2:] / self.sums[0]
        return float((entr(mean).sum() - self.sums[1] / self.sums[0]).exp())
