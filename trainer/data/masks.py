"""Masks as users of an editor draw them: a connected part of the label map, a little larger (ASSET, section 4.1).

Shapes: B samples, H rows and W columns of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from ...models.bounds import Natural, PositiveShare, Share, check_ranges
from ..keyed_random import Draws

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskConfig:
    """Which part of an image is masked in training: the connected part of a class that a random pixel lies in."""

    largest: PositiveShare = 0.6  # share of the pixels; of a larger mask random halves are taken away
    grow: Natural = 4  # pixels that are added all around; 4 at 256 pixels, 8 at 512, 16 at 1024 (published)
    boxes: Share = 0.0  # the chance that the part's bounding box is masked in its place; 0.5 for COCO (published)

    def __post_init__(self) -> None:
        check_ranges(self)


def draw_mask(labels: npt.NDArray[np.integer], key: int, config: MaskConfig) -> Mask:
    """The mask (H, W) of one map (H, W), true where pixels are to be made anew; a function of its arguments alone.

    It is never empty, and never larger than ``config.largest``, but for a single pixel.
    """
    draws = Draws(key)
    height, width = labels.shape
    row, column = draws.below(height), draws.below(width)
    parts, _ = ndimage.label(labels == labels[row, column])
    mask: Mask = parts == parts[row, column]
    if draws.uniform() < config.boxes:
        mask[_bounding_box(mask)] = True
    if config.grow:
        mask = ndimage.maximum_filter(mask, 2 * config.grow + 1, mode="constant")
    while mask.sum() > max(config.largest * mask.size, 1):
        mask = _without_half(mask, draws)
    return mask


def draw_masks(labels: Tensor, seeds: Sequence[int], config: MaskConfig) -> Tensor:
    """The masks (B, H, W) bool of a batch of maps (B, H, W), on their device: sample b's depends on ``seeds[b]``."""
    maps = labels.cpu().numpy()
    masks = [draw_mask(each, seed, config) for each, seed in zip(maps, seeds, strict=True)]
    return torch.from_numpy(np.stack(masks)).to(labels.device)


def _bounding_box(mask: Mask) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _without_half(mask: Mask, draws: Draws) -> Mask:
    """The mask without the upper, lower, left or right half of its bounding box."""
    box = _bounding_box(mask)
    axis = draws.below(2)
    if box[axis].stop - box[axis].start == 1:
        axis = 1 - axis
    middle = (box[axis].start + box[axis].stop) // 2
    erased = [slice(None), slice(None)]
    erased[axis] = slice(middle) if draws.below(2) else slice(middle, None)
    rest: Mask = mask.copy()
    rest[tuple(erased)] = False
    return rest
