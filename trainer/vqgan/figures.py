"""Evaluation metrics and preview images of reconstructions.

Shapes: B samples, D channels, H rows, W columns, N labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.pixel_range import from_levels
from ..data.inputs import Field
from ..keyed_random import splitmix64
from ..training.evaluation import MetricSums, psnr


def three_channels(images: Tensor) -> Tensor:
    """(B, 1, H, W) as the gray images (B, 3, H, W) that networks of colors take; others as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def add_figures(sums: MetricSums, field: Field, real: Tensor, rebuilt: Tensor) -> None:
    """Validation figures of a batch: PSNR in dB and mean absolute error; of maps, accuracy and nats a place."""
    if field == "segmentation":
        known = real < rebuilt.shape[1]
        nats = F.cross_entropy(rebuilt, torch.where(known, real, -100), reduction="none")
        sums.add("cross_entropy", nats[known])
        sums.add("accuracy", (rebuilt.argmax(1) == real)[known].float())
        return
    sums.add("psnr", psnr(real, rebuilt))
    sums.add("l1", (rebuilt.clamp(-1, 1) - real).abs())


def side_by_side(field: Field, real: Tensor, rebuilt: Tensor) -> list[Tensor]:
    """Two rows of color images, (B, 3, H, W) in [-1, 1]: what was to be rebuilt, above what came of it."""
    if field == "segmentation":
        return [color_coded(real), color_coded(rebuilt.argmax(1))]
    return [three_channels(real), three_channels(rebuilt)]


def color_coded(maps: Tensor) -> Tensor:
    """(B, H, W) labels as images (B, 3, H, W) in [-1, 1], a color for each below 255, the same in every run.

    All labels from 255 on share the color of 255: none is a class of a model, they are marks of no label.
    """
    bits = torch.tensor([splitmix64(label) & 0xFFFFFF for label in range(256)], device=maps.device)
    palette = from_levels(torch.stack([bits >> 16, bits >> 8 & 0xFF, bits & 0xFF], dim=1))  # (256, 3)
    return palette[maps.clamp(max=255)].movedim(-1, 1)
