"""Label maps and depths as color images, for previews.

Shapes: B samples, H rows, W columns.
"""

import torch
from torch import Tensor

from ...models.pixel_range import from_levels
from ..keyed_random import splitmix64

KNOWN = 255  # labels that have colors of their own; the others are marks of no label


def palette(device: torch.device) -> Tensor:
    """(256, 3) in [-1, 1]: a color for each label below 255, the same in every run, and one for all others."""
    bits = torch.tensor([splitmix64(label) & 0xFFFFFF for label in range(KNOWN + 1)], device=device)
    return from_levels(torch.stack([bits >> 16, bits >> 8 & 0xFF, bits & 0xFF], dim=1))


def color_coded(maps: Tensor) -> Tensor:
    """(B, H, W) labels as images (B, 3, H, W) in [-1, 1]."""
    return palette(maps.device)[maps.clamp(max=KNOWN)].movedim(-1, 1)


def three_channels(images: Tensor) -> Tensor:
    """(B, 1, H, W) as the gray images (B, 3, H, W) that networks of colors take; others as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
