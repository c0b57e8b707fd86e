"""What a PixelSNAIL remembers of windows that are sampled side by side: inputs of convolutions, keys and values.

Shapes: L lanes, (h, w) the window, N = h * w codes, C channels, D channels of a head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class Cells(NamedTuple):
    """The cell that every lane predicts next, and the one before it, whose code has just been read."""

    read: Tensor  # (L,) raster number of the cell before
    next: Tensor  # (L,)
    before: Tensor  # (L, 2) the place of the cell before
    place: Tensor  # (L, 2)
    live: Tensor  # (L,) bool, lanes that take part
    mask: Tensor  # (L, 1, 1, N + 1): 0 where attention may look, else minus infinity


class SNAILCache:
    """Everything that later cells read, each lane for itself; see ``KeyValueCache`` for lanes, ``spare`` and lengths.

    Args:
        weights: of ``PixelSNAIL.step_weights``.
        lanes: L.
        window: h and w.
        reach: rows above and columns to either side that convolutions see.
        blocks: blocks, each with one attention.
        heads: of the attention.
        place: (1, 2, h, w) where every cell is.
        like: a tensor (..., C) of the wanted precision and device.
    """

    cells: Cells

    def __init__(
        self,
        weights: Sequence[Tensor],
        lanes: int,
        window: tuple[int, int],
        reach: int,
        blocks: int,
        heads: int,
        place: Tensor,
        like: Tensor,
    ) -> None:
        self.weights, self.reach, self.window = weights, reach, window
        self.lanes = self.spare = lanes
        rows, columns = window
        width, cells = like.shape[-1], rows * columns
        self.stride = columns + 2 * reach  # of the padded grid that the convolutions' inputs lie in
        self.outside = (rows + reach) * self.stride  # where inputs of idle lanes go
        self.inputs = like.new_zeros(len(weights), lanes + 1, self.outside + 1, width)
        self.features = like.new_zeros(blocks, lanes + 1, width)  # of the next cell, before each attention
        # One key more stands before all cells, and is zero; one behind all takes those of idle lanes.
        shape = (blocks, lanes + 1, heads, cells + 2, width // heads)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.local = like.new_zeros(lanes + 1, cells, width)
        self.lengths = torch.zeros(lanes + 1, dtype=torch.int64, device=like.device)  # codes read
        self.place = rearrange(place[0], "two h w -> (h w) two").to(like.dtype)
        above = torch.arange(-reach, 1, device=like.device)[:, None] * self.stride
        steps = (above + torch.arange(-reach, reach + 1, device=like.device)).flatten()
        self.steps = steps[steps <= 0]  # from a cell to those that it sees, itself last

    def fill(self, lanes: Tensor, held: Tensor, local: Tensor, inputs: Sequence[Tensor]) -> None:
        """Replace what some lanes hold.

        Args:
            lanes: (n,).
            held: (n,) codes read.
            local: (n, C, h, w) what the condition says at each cell.
            inputs: (n, C, h, w) of each convolution; what lies behind the next cell is written over before it is read.
        """
        self.local.index_copy_(0, lanes, rearrange(local, "n c h w -> n (h w) c").to(self.local.dtype))
        for number, entered in enumerate(inputs):
            padded = F.pad(entered, (self.reach, self.reach, self.reach, 0))
            self.inputs[number, :, : self.outside].index_copy_(0, lanes, rearrange(padded, "n c h w -> n (h w) c"))
        self.lengths.index_copy_(0, lanes, held)

    def fill_block(
        self, number: int, lanes: Tensor, held: Tensor, features: Tensor, key: Tensor, value: Tensor
    ) -> None:
        """A block's (n, C, h, w) features and its (n, heads, N, D) keys and values."""
        every = rearrange(features, "n c h w -> n (h w) c")
        self.features[number].index_copy_(0, lanes, every[torch.arange(len(held), device=held.device), held])
        for table, fresh in ((self.keys, key), (self.values, value)):
            table[number, :, :, 1:-1].index_copy_(0, lanes, fresh)

    def open(self, live: Tensor) -> None:
        """Go on to the next cell in the (L,) bool ``live`` lanes."""
        count = len(self.place)
        read = self.lengths[:-1].clamp(max=count - 2)
        hidden = torch.arange(count + 1, device=live.device) > read[:, None] + 1
        mask = rearrange(hidden.to(self.keys.dtype).masked_fill_(hidden, -torch.inf), "l t -> l 1 1 t")
        self.cells = Cells(read, read + 1, self.place[read], self.place[read + 1], live, mask)

    def local_here(self) -> Tensor:
        """(L, C) what the condition says at the next cell."""
        return self.local[torch.arange(self.lanes, device=self.local.device), self.cells.next]

    def write(self, number: int, entered: Tensor, before: bool = False) -> None:
        """A convolution's (L, C) input at the next cell, or at the one before."""
        cells = self.cells
        at = self._padded(cells.read if before else cells.next).masked_fill(~cells.live, self.outside)
        self.inputs[number, torch.arange(self.lanes, device=at.device), at] = entered

    def patches(self, number: int, itself: bool) -> Tensor:
        """(L, taps * C) what a convolution sees from the next cell."""
        steps = self.steps if itself else self.steps[:-1]
        seen = self._padded(self.cells.next)[:, None] + steps
        found = self.inputs[number, torch.arange(self.lanes, device=seen.device)[:, None], seen]
        return found.flatten(1)

    def note(self, number: int, features: Tensor) -> None:
        """A block's (L, C) features of the next cell, whose key waits for its code."""
        held = self.features[number, : self.lanes]
        held.copy_(features.where(self.cells.live[:, None], held))

    def extend(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the (L, heads, D) key and value of the cell before; give the (L, heads, N + 1, D) that may be seen."""
        every = torch.arange(self.lanes, device=key.device)
        at = (self.cells.read + 1).masked_fill(~self.cells.live, self.keys.shape[3] - 1)
        for table, fresh in ((self.keys, key), (self.values, value)):
            table[number, every, :, at] = fresh
        return self.keys[number, : self.lanes, :, :-1], self.values[number, : self.lanes, :, :-1]

    def _padded(self, cells: Tensor) -> Tensor:
        """Where cells stand in the padded grid."""
        columns = self.window[1]
        return (cells // columns + self.reach) * self.stride + cells % columns + self.reach
