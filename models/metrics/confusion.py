"""Agreement of label maps: counts of true against found labels, and the scores that are made of them.

Shapes: B maps of H x W places, N labels.
"""

import torch
from torch import Tensor


def confusion(real: Tensor, found: Tensor, labels: int) -> Tensor:
    """How often each true label was found as each label.

    Args:
        real, found: (B, H, W) integers; places whose true label is not in [0, N), as the mark of no label, do not
            count. Found labels must lie in [0, N).

    Returns:
        (N, N) int64: rows are true labels, columns found ones.
    """
    known = (real >= 0) & (real < labels)
    pairs = real[known].long() * labels + found[known].long()
    return torch.bincount(pairs, minlength=labels * labels).view(labels, labels)


def mean_iou(counts: Tensor) -> float:
    """Intersection over union, the mean over the labels that are true or found anywhere; NaN of no places."""
    both = counts.diagonal().double()
    either = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return (both / either)[either > 0].mean().item()


def pixel_accuracy(counts: Tensor) -> float:
    """The share of places whose label was found; NaN of no places."""
    return (counts.diagonal().sum().double() / counts.sum()).item()
