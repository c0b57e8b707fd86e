"""Halving a grid without aliasing: smooth first, then keep every second place. Zhang 2019."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Blur(nn.Module):
    """Convolves each channel with the binomial kernel (1, 3, 3, 1), both ways.

    Args:
        stride: 2 halves the sides, 1 leaves them to a strided convolution that follows.
        padding: zeros on the left and right, top and bottom alike.
    """

    kernel: Tensor

    def __init__(self, stride: int, padding: Sequence[int]) -> None:
        super().__init__()
        self.stride, self.padding = stride, (*padding, *padding)
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", line[:, None] * line, persistent=False)  # (4, 4), of sum 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2) with stride 2 and padding (1, 1)."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        return F.conv2d(F.pad(x, self.padding), kernel, stride=self.stride, groups=channels)
