"""What a layer of an editor's decoder remembers while a grid is filled: keys and values, and those it looks at now.

Shapes: L lanes, h heads, N blocks of s + 1 rows, D channels of a head, M blocks in a row of a table.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ...transformer.block_sparse import block_attention, gather_blocks


class RowPlace(NamedTuple):
    """Which row is read, on the device, so that a captured step reads any."""

    row: Tensor  # (1,) int64, of its block
    of_all: Tensor  # (1,) int64, of all N * (s + 1) rows


class EditCache:
    """The keys and values of one layer.

    Args:
        memory: the encoder's for this layer, (m, h, N, s, D) each, of which each serves L / m lanes in a row.
        tables: which blocks each block looks at, among its own rows and the encoder's, (L, h or 1, N, M) each.
        masks: (N, s + 1, M * (s + 1)) and (N, s + 1, M * s) bool, where a row may look.
        lanes: L.
    """

    def __init__(
        self,
        memory: tuple[Tensor, Tensor],
        tables: tuple[Tensor, Tensor],
        masks: tuple[Tensor, Tensor],
        lanes: int,
    ) -> None:
        _, heads, blocks, cells, channels = memory[0].shape
        shape = (lanes, heads, blocks, cells + 1, channels)
        self.memory, self.tables, self.masks, self.served = memory, tables, masks, lanes // len(memory[0])
        self.keys, self.values = memory[0].new_zeros(shape), memory[0].new_zeros(shape)
        # Keys and values of the blocks that are looked at now, its own rows' and the encoder's, (L, h, M * rows, D).
        held = [memory[0].new_zeros(2, lanes, heads, mask.shape[2], channels) for mask in masks]
        self.own, self.cross = ((each[0], each[1]) for each in held)
        self.seen_by_row = masks[0].flatten(0, 1), masks[1].flatten(0, 1)

    def attend_blocks(self, query: Tensor, key: Tensor, value: Tensor, lane: int, run: slice) -> Tensor:
        """Attention of one lane's run of blocks, (1, h, n, s + 1, D), whose keys and values are kept."""
        own = slice(lane, lane + 1)
        self.keys[own, :, run], self.values[own, :, run] = key, value
        return block_attention(query, self.keys[own], self.values[own], self.tables[0][own, :, run], self.masks[0][run])

    def look_blocks(self, query: Tensor, lane: int, run: slice) -> Tensor:
        """The same run's look at the encoder."""
        keys, values = (part[lane // self.served, None] for part in self.memory)
        return block_attention(query, keys, values, self.tables[1][lane : lane + 1, :, run], self.masks[1][run])

    def enter(self, block: int) -> None:
        """Gather what a block looks at, in all lanes, to where its rows find it."""
        for held, everything, table in ((self.own, (self.keys, self.values), 0), (self.cross, self.memory, 1)):
            rows = self.tables[table][:, :, block : block + 1]
            for place, part in zip(held, everything, strict=True):
                place.copy_(gather_blocks(part, rows)[:, :, 0])

    def attend_row(self, query: Tensor, key: Tensor, value: Tensor, place: RowPlace) -> Tensor:
        """Attention of a row of the block that was entered, (L, h, 1, 1, D), whose keys and values are kept."""
        for kept, gathered, fresh in zip((self.keys, self.values), self.own, (key, value), strict=True):
            kept.flatten(2, 3).index_copy_(2, place.of_all, fresh[:, :, 0])
            gathered.index_copy_(2, place.row, fresh[:, :, 0])  # the block itself is the first of those looked at
        return _attended(query, *self.own, self.seen_by_row[0], place)

    def look_row(self, query: Tensor, place: RowPlace) -> Tensor:
        """The same row's look at the encoder."""
        return _attended(query, *self.cross, self.seen_by_row[1], place)


def _attended(query: Tensor, keys: Tensor, values: Tensor, seen_by_row: Tensor, place: RowPlace) -> Tensor:
    """Queries (L, h, 1, 1, D) over keys and values (L, h, k, D), where the row of the masks (rows, k) is true."""
    seen = seen_by_row.index_select(0, place.of_all)
    return F.scaled_dot_product_attention(query[:, :, 0], keys, values, seen)[:, :, None]
