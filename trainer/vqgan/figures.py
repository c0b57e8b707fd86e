"""Evaluation metrics and preview images of reconstructions.

Shapes: B samples, D channels, H rows, W columns, N labels.
"""

import torch.nn.functional as F
from torch import Tensor

from ..data.inputs import Field
from ..training.color_maps import color_coded, three_channels
from ..training.evaluation import MetricSums, psnr


def add_figures(sums: MetricSums, field: Field, real: Tensor, rebuilt: Tensor) -> None:
    """Validation figures of a batch: PSNR in dB and mean absolute error; of maps, accuracy and nats a place."""
    if field == "segmentation":
        known = real < rebuilt.shape[1]
        nats = F.cross_entropy(rebuilt, real.masked_fill(~known, -100), reduction="none")
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
