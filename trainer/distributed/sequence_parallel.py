"""The ranks that share a sequence: neighbors in the job's order, each group with samples of its own."""

from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from . import ranks


class _Swap(torch.autograd.Function):
    """Cut one axis into R parts, send each to its rank, join what comes along another axis; backward the other way."""

    @staticmethod
    def forward(context: Any, x: Tensor, group: Any, cut: int, join: int) -> Tensor:
        context.how = (group, join, cut)
        parts = x.chunk(dist.get_world_size(group), dim=cut)
        sent = torch.stack([part.contiguous() for part in parts])
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return torch.cat(received.unbind(), dim=join)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Swap.apply(gradient, *context.how), None, None, None  # type: ignore[no-untyped-call]


class _Whole(torch.autograd.Function):
    """All ranks' parts along axis 1; backward this rank's part, R times: see ``Exchange.whole``."""

    @staticmethod
    def forward(context: Any, x: Tensor, group: Any) -> Tensor:
        context.group = group
        parts = torch.empty(dist.get_world_size(group), *x.shape, dtype=x.dtype, device=x.device)
        dist.all_gather(list(parts.unbind()), x.contiguous(), group=group)
        return rearrange(parts, "r b t c -> b (r t) c")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        world = dist.get_world_size(context.group)
        return world * gradient.chunk(world, dim=1)[dist.get_rank(context.group)], None


class SequenceGroup:
    """An ``Exchange`` among ``size`` neighboring ranks.

    Every rank of the job must make one, with the same size.

    Raises:
        ValueError: the ranks of the job are no multiple of it.
    """

    def __init__(self, size: int) -> None:
        if ranks.world() % size:
            raise ValueError(f"sequence_parallel_size must divide the {ranks.world()} ranks of the job, got {size}")
        self.ranks = size
        self.rank = ranks.rank() % size
        for first in range(0, ranks.world(), size):
            group = dist.new_group(list(range(first, first + size)))
            if first <= ranks.rank() < first + size:
                self._group = group

    def to_heads(self, x: Tensor) -> Tensor:
        """(B, heads, T / R, D) to (B, heads / R, T, D)."""
        swapped: Tensor = _Swap.apply(x, self._group, 1, 2)  # type: ignore[no-untyped-call]
        return swapped

    def to_positions(self, x: Tensor) -> Tensor:
        """(B, heads / R, T, D) to (B, heads, T / R, D)."""
        swapped: Tensor = _Swap.apply(x, self._group, 2, 1)  # type: ignore[no-untyped-call]
        return swapped

    def whole(self, x: Tensor) -> Tensor:
        """(B, T / R, C) to (B, T, C); see ``Exchange``."""
        whole: Tensor = _Whole.apply(x, self._group)  # type: ignore[no-untyped-call]
        return whole
