"""Batches to network inputs: images to [-1, 1], depth to [-1, 1], segmentation labels to int64.

Shapes: B samples, H rows, W columns.
"""

from typing import Literal

from torch import Tensor

from ...models.pixel_range import from_levels
from ..distributed import ranks
from .collate import Batch

Field = Literal["image", "depth", "segmentation"]


def target(batch: Batch, field: Field) -> Tensor:
    """The batch's field on this rank's device, as the network takes it.

    Returns:
        (B, 3, H, W) float32 in [-1, 1] of images, (B, 1, H, W) of depths, (B, H, W) int64 of maps.
    """
    values = batch[field]
    if not isinstance(values, Tensor):
        raise TypeError(f"the batch's {field} must be a tensor, got {type(values).__name__}")
    values = values.to(ranks.device(), non_blocking=True)
    if field == "segmentation":
        return values.long()
    return from_levels(values) if field == "image" else values[:, None].float() * 2 - 1
