"""Batches to network inputs: images to [-1, 1], depth to [-1, 1], segmentation labels to int64.

Shapes: B samples, H rows, W columns.
"""

from typing import Literal

from torch import Tensor

from ...models.pixel_range import from_levels
from ..distributed import ranks
from ..keyed_random import mix, text_key
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


def sample_seeds(batch: Batch, *numbers: int) -> list[int]:
    """A number for each row, from its key and further numbers such as a seed and a step.

    Rows that were lent to a rank without samples of its own have no key; theirs are of the empty one.
    """
    rows = len(next(value for value in batch.values() if isinstance(value, Tensor)))
    keys = batch["key"] or [""] * rows
    return [mix(*numbers, text_key(str(key))) for key in keys]
