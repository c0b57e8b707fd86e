"""Preallocated keys and values of several sequences that are sampled side by side.

Shapes: B lanes, T positions, D channels of a head, L layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from .block import StepWeights
from .rope import RopeTables


class KeyValueCache:
    """Keys and values of several sequences that grow side by side, each in its own lane.

    Everything has a fixed shape, so a lane's numbers do not depend on what the other lanes hold. One lane more than
    asked for, ``spare``, and one position more take what is to leave no trace.

    Args:
        weights: what each of the L layers multiplies by in every step.
        lanes: B.
        heads: heads of the attention.
        capacity: T.
        channels: D.
        rope: the tables of ``paired`` at all positions, (T, 1, 1, D), for blocks that need them.
        like: a tensor of the wanted precision and device.
    """

    def __init__(
        self,
        weights: Sequence[StepWeights],
        lanes: int,
        heads: int,
        capacity: int,
        channels: int,
        rope: RopeTables | None,
        like: Tensor,
    ) -> None:
        self.weights = weights
        self.rope = rope
        shape = (len(weights), lanes + 1, heads, capacity + 1, channels)
        self.keys = like.new_zeros(shape)  # (L, B + 1, heads, T + 1, D)
        self.values = like.new_zeros(shape)
        self.hidden: Tensor | None = None  # (B + 1, T) bool, where no lane looks, once something is hidden
        self.lengths = torch.zeros(lanes + 1, dtype=torch.int64, device=like.device)  # (B + 1,) positions held
        self.lanes, self.capacity, self.spare = lanes, capacity, lanes

    def fill(self, layer: int, lanes: Tensor, keys: Tensor, values: Tensor) -> None:
        """Replace what some lanes hold by (n, t, heads, D) keys and values; ``lanes`` is (n,)."""
        length = keys.shape[1]
        for table, fresh in ((self.keys, keys), (self.values, values)):
            table[layer, :, :, :length].index_copy_(0, lanes, fresh.transpose(1, 2))

    def hide(self, lanes: Tensor, hidden: Tensor) -> None:
        """Let some lanes never look at some of their first positions; ``lanes`` (n,), ``hidden`` (n, t) bool.

        The first call comes before any step.
        """
        if self.hidden is None:
            self.hidden = torch.zeros(self.lanes + 1, self.capacity, dtype=torch.bool, device=hidden.device)
        self.hidden[:, : hidden.shape[1]].index_copy_(0, lanes, hidden)

    def opened(self, live: Tensor) -> "Opened":
        """Where every lane writes its next position and where it may look then; (B,) bool ``live`` lanes take part."""
        every = torch.arange(self.lanes, device=live.device)
        places = self.lengths[: self.lanes].masked_fill(~live, self.capacity)
        hidden = torch.arange(self.capacity, device=live.device) > self.lengths[: self.lanes, None]
        if self.hidden is not None:
            hidden = hidden | self.hidden[: self.lanes]
        mask = hidden.to(self.keys.dtype).masked_fill_(hidden, -torch.inf)
        return Opened(every, places, rearrange(mask, "b t -> b 1 1 t"))

    def extend(self, layer: int, opened: "Opened", keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write the (B, heads, D) keys and values of one more position; give all that it may look at, and the mask.

        Returns:
            Keys and values (B, heads, T, D), and what to add to the attention's logits (B, 1, 1, T).
        """
        for table, fresh in ((self.keys, keys), (self.values, values)):
            table[layer, opened.lanes, :, opened.places] = fresh
        held = (table[layer, : self.lanes, :, : self.capacity] for table in (self.keys, self.values))
        return (*held, opened.mask)  # type: ignore[return-value]


class Opened(NamedTuple):
    """The next position of every lane of a cache, the same for all layers."""

    lanes: Tensor  # (B,) int64
    places: Tensor  # (B,) int64; one behind the last for lanes that take no part
    mask: Tensor  # (B, 1, 1, T): 0 where a lane may look, else minus infinity
