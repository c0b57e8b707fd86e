"""Keys and values of the last rows of large grids, for priors that look at a neighborhood of each cell.

Shapes: L layers, B images, n lanes, (R + 1) x (2 C + 1) cells of a neighborhood, D channels of a head.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor


class LanePositions(NamedTuple):
    """Which position of which image every lane of a step reads; lanes outside of ``live`` leave no trace."""

    images: Tensor  # (n,) int64
    rows: Tensor  # (n,) int64
    columns: Tensor  # (n,) int64
    live: Tensor  # (m,) int64 numbers of lanes


class RollingCache:
    """A ring of rows for each image, wide enough for a neighborhood that hangs over the edges.

    Args:
        layers: L.
        images: B.
        rows: how many rows are kept; row r lies where row r - rows lay.
        columns: positions of a row.
        neighborhood: R rows above and C columns to either side that a position sees.
        heads: heads of the attention.
        like: a tensor of the wanted precision and device, (..., heads * D).
    """

    def __init__(
        self,
        layers: int,
        images: int,
        rows: int,
        columns: int,
        neighborhood: tuple[int, int],
        heads: int,
        like: Tensor,
    ) -> None:
        self.above, self.beside = neighborhood
        self.rows, self.columns = rows, columns
        shape = (layers, images, rows, columns + 2 * self.beside, heads, like.shape[-1] // heads)
        self.keys = like.new_zeros(shape)
        self.values = like.new_zeros(shape)

    def extend(self, layer: int, aim: LanePositions, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write the (n, heads, 1, D) keys and values of a step; give the neighborhoods of its positions.

        Returns:
            Keys and values (n, heads, (R + 1) * (2 C + 1), D), and the mask (n, 1, 1, (R + 1) * (2 C + 1)).
        """
        images, rows, columns, live = aim
        places = (images[live], rows[live] % self.rows, columns[live] + self.beside)
        self.keys[layer][places] = keys[live, :, 0]
        self.values[layer][places] = values[live, :, 0]

        device = rows.device
        near_rows = rearrange(rows, "n -> n 1 1") - torch.arange(self.above, -1, -1, device=device)[:, None]
        near_columns = rearrange(columns, "n -> n 1 1") + torch.arange(-self.beside, self.beside + 1, device=device)
        past = (near_rows < rows[:, None, None]) | (near_columns <= columns[:, None, None])
        inside = (near_rows >= 0) & (near_columns >= 0) & (near_columns < self.columns)
        near = (rearrange(images, "n -> n 1 1"), near_rows % self.rows, near_columns + self.beside)
        found_keys, found_values = (
            rearrange(table[layer][near], "n r c heads d -> n heads (r c) d") for table in (self.keys, self.values)
        )
        return found_keys, found_values, rearrange(past & inside, "n r c -> n 1 1 (r c)")
