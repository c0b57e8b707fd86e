"""How visible the borders of tiles are in a picture."""

from collections.abc import Sequence

import torch
from torch import Tensor


def seam(pictures: Tensor, rows: Sequence[int], columns: Sequence[int]) -> float:
    """The mean step across the borders of tiles, over the mean step between any other neighbours; 1 where no seam is.

    Args:
        pictures: (B, 3, H, W).
        rows, columns: the pixels at which a tile begins, without 0.

    Raises:
        ValueError: no border is named, or one that lies outside.
    """
    across, along = _steps(pictures, rows), _steps(pictures.mT, columns)
    at_borders, elsewhere = (torch.cat(pair) for pair in zip(across, along, strict=True))
    if not len(at_borders):
        raise ValueError("a seam lies between two tiles, and there is one tile; name a row or a column to look at")
    return float(at_borders.mean() / elsewhere.mean())


def _steps(pictures: Tensor, borders: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The sizes of the steps from row to row: at the borders, and elsewhere."""
    height = pictures.shape[2]
    if borders and not 0 < min(borders) <= max(borders) < height:
        raise ValueError(f"borders must lie in 1 to {height - 1}, got {list(borders)}")
    steps = pictures.double().diff(dim=2).abs().mean(dim=(0, 1, 3))
    border = torch.zeros(height - 1, dtype=torch.bool)
    border[[place - 1 for place in borders]] = True
    return steps[border], steps[~border]
