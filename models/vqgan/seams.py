"""How visible the borders of tiles are in an image."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Seams:
    """The mean step across the borders of tiles, over the mean step between any other neighbors; 1 where no seam is.

    The image may come band by band. Every line between two rows or two columns counts alike.

    Args:
        height, width: of the image.
        rows, columns: the pixels at which a tile begins, without 0.

    Raises:
        ValueError: no border is named, or one that lies outside.
    """

    def __init__(self, height: int, width: int, rows: Sequence[int], columns: Sequence[int]) -> None:
        self._at_rows, self._at_columns = _borders(height, rows), _borders(width, columns)
        if not rows and not columns:
            raise ValueError("a seam lies between two tiles, and there is one tile; name a row or a column to look at")
        self._height = height
        self._down: list[Tensor] = []  # the mean step from each row to the next, band by band
        self._across = torch.zeros(width - 1, dtype=torch.float64)  # from each column to the next, summed over rows
        self._last: Tensor | None = None

    def add(self, band: Tensor) -> None:
        """(B, C, rows, W): the rows that follow."""
        joined = band if self._last is None else torch.cat([self._last, band], dim=2)
        self._down.append(joined.diff(dim=2).abs().mean(dim=(0, 1, 3), dtype=torch.float64))
        self._across += band.diff(dim=3).abs().mean(dim=(0, 1), dtype=torch.float64).sum(dim=0)
        self._last = band[:, :, -1:].clone()

    def seam_ratio(self) -> float:
        """Once all rows were added."""
        steps = torch.cat([*self._down, self._across / self._height])
        border = torch.cat([self._at_rows, self._at_columns])
        return float(steps[border].mean() / steps[~border].mean())


def seam(images: Tensor, rows: Sequence[int], columns: Sequence[int]) -> float:
    """``Seams`` of (B, 3, H, W) images that are there as a whole."""
    seams = Seams(images.shape[2], images.shape[3], rows, columns)
    seams.add(images)
    return seams.seam_ratio()


def _borders(length: int, borders: Sequence[int]) -> Tensor:
    """(length - 1,) whether a border lies between a line and the next one."""
    if borders and not 0 < min(borders) <= max(borders) < length:
        raise ValueError(f"borders must lie in 1 to {length - 1}, got {list(borders)}")
    between = torch.zeros(length - 1, dtype=torch.bool)
    between[[place - 1 for place in borders]] = True
    return between
