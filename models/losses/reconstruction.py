"""Pixel and segmentation losses of a reconstruction.

Shapes: B images, H rows, W columns, N labels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLoss = Literal["l1", "l2"]
SegmentationLoss = Literal["cross_entropy", "bce"]


def pixel_loss(kind: PixelLoss, real: Tensor, rebuilt: Tensor) -> Tensor:
    """The mean absolute (l1) or squared (l2) difference of two batches of images, () float32."""
    gap = rebuilt.float() - real.float()
    return gap.abs().mean() if kind == "l1" else gap.square().mean()


def segmentation_loss(kind: SegmentationLoss, maps: Tensor, logits: Tensor) -> Tensor:
    """How far (B, N, H, W) logits are from (B, H, W) integer maps, () float32.

    ``cross_entropy`` lets labels compete and is the mean over places; ``bce`` asks for each label alone and is the
    mean over places and labels, as in the published segmentation model. Places whose number is no label do not count.
    """
    logits, labels = logits.float(), logits.shape[1]
    known = (maps >= 0) & (maps < labels)
    targets = maps.long().masked_fill(~known, 0)
    if kind == "cross_entropy":
        each = F.cross_entropy(logits, targets, reduction="none")
    else:
        wanted = torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
    return (each * known).sum() / known.sum().clamp(min=1)
