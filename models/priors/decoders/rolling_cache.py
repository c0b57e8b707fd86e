"""Keys and values of the last rows of large grids, for priors that look at a neighborhood of each cell.

Shapes: L layers, B images, n lanes, N = (R + 1) x (2 C + 1) cells of a neighborhood, D channels of a head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ...transformer.block import StepWeights


class LanePositions(NamedTuple):
    """Which position of which image every lane of a step reads; image B, the spare one, leaves no trace."""

    images: Tensor  # (n,) int64
    rows: Tensor  # (n,) int64
    columns: Tensor  # (n,) int64


class Neighborhoods(NamedTuple):
    """Where the positions of a step lie in a layer's table, the same for all layers."""

    written: Tensor  # (n,) int64, where a position's own keys and values go
    near: Tensor  # (n, N) int64, where those that it may see lie
    mask: Tensor  # (n, 1, 1, N): 0 where it may look, else minus infinity


class RollingCache:
    """A ring of rows for each image, wide enough for a neighborhood that hangs over the edges.

    Args:
        weights: what each of the L layers multiplies by in every step.
        images: B; there is a spare one besides.
        rows: how many rows are kept; row r lies where row r - rows lay.
        columns: positions of a row.
        neighborhood: R rows above and C columns to either side that a position sees.
        heads: heads of the attention.
        like: a tensor of the wanted precision and device, (..., heads * D).
    """

    def __init__(
        self,
        weights: Sequence[StepWeights],
        images: int,
        rows: int,
        columns: int,
        neighborhood: tuple[int, int],
        heads: int,
        like: Tensor,
    ) -> None:
        self.weights = weights
        above, self.beside = neighborhood
        self.rows, self.columns, self.spare = rows, columns, images
        positions = (images + 1) * rows * (columns + 2 * self.beside)
        shape = (len(weights), positions, heads, like.shape[-1] // heads)
        self.keys = like.new_zeros(shape)
        self.values = like.new_zeros(shape)
        down = torch.arange(-above, 1, device=like.device)
        across = torch.arange(-self.beside, self.beside + 1, device=like.device)
        self._offsets = torch.cartesian_prod(down, across)  # (N, 2)
        self._later = (self._offsets[:, 0] == 0) & (self._offsets[:, 1] > 0)  # (N,) to the right in the same row

    def neighborhoods(self, aim: LanePositions) -> Neighborhoods:
        """Where a step writes and looks."""
        rows = aim.rows[:, None] + self._offsets[:, 0]
        columns = aim.columns[:, None] + self._offsets[:, 1]
        hidden = (rows < 0) | (columns < 0) | (columns >= self.columns) | self._later
        near = self._flat(aim.images[:, None], rows, columns)
        mask = hidden.to(self.keys.dtype).masked_fill_(hidden, -torch.inf)
        written = self._flat(aim.images, aim.rows, aim.columns)
        return Neighborhoods(written, near, rearrange(mask, "n near -> n 1 1 near"))

    def extend(self, layer: int, places: Neighborhoods, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write the (n, heads, D) keys and values of a step; give the neighborhoods of its positions.

        Returns:
            Keys and values (n, heads, N, D), and what to add to the attention's logits (n, 1, 1, N).
        """
        for table, fresh in ((self.keys, keys), (self.values, values)):
            table[layer].index_put_((places.written,), fresh)
        found = (table[layer][places.near].transpose(1, 2) for table in (self.keys, self.values))
        return (*found, places.mask)  # type: ignore[return-value]

    def _flat(self, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Numbers of positions in a layer's table."""
        ring = images * self.rows + rows.remainder(self.rows)
        return ring * (self.columns + 2 * self.beside) + columns + self.beside
