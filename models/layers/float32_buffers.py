"""Buffers that stay in float32 whatever the network around them is cast to."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T", bound=nn.Module)


class Float32Buffers(nn.Module):
    """Keeps floating buffers in float32 when the network is cast, as ``.bfloat16()`` and DeepSpeed do.

    Running averages that move by a hundredth a step stand still in bfloat16.
    """

    def _apply(self: T, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> T:
        kept = {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer.dtype == torch.float32}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in kept.items():
            moved = self.get_buffer(name)
            if moved.dtype != torch.float32:
                setattr(self, name, buffer.to(moved.device))
        return self
