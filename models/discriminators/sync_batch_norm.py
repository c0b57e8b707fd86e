"""Batch normalization whose statistics may be summed over ranks by a function of the caller: Ioffe and Szegedy 2015.

torch's own synchronized form knows process groups and refuses a CPU; this one knows neither.

Shapes: B images, C channels, H rows, W columns.
"""

import torch
from torch import Tensor, nn

from ..layers.cross_rank_statistics import CrossRankStatistics
from ..layers.float32_buffers import Float32Buffers


class BatchNorm(Float32Buffers, CrossRankStatistics):
    """Normalizes each channel by its mean and variance over the batch; keeps running ones for evaluation."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and type; the arithmetic is in float32."""
        values = x.float()
        mean, variance = self._measure(values) if self.training else (self.running_mean, self.running_var)
        scale = self.weight.float() * (variance + self.epsilon).rsqrt()  # (C,)
        shift = self.bias.float() - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _measure(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) over the batches of all ranks; the running ones take a step towards them."""
        variance, mean = (part.double() for part in torch.var_mean(values, (0, 2, 3), correction=0))
        size = torch.full_like(mean, values.numel() / values.shape[1])
        # Sums, not means, so that ranks may hold different numbers of images; doubles, so that they do not cancel.
        total, first, second = self.reduce(torch.stack([size, size * mean, size * (variance + mean.square())]))
        mean = first / total
        variance = (second / total - mean.square()).clamp(min=0)
        self._remember(mean.detach(), (variance * total / (total - 1).clamp(min=1)).detach())
        return mean.float(), variance.float()

    def _remember(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        finite = mean.isfinite() & unbiased_variance.isfinite()  # one bad batch would spoil them for good
        self.running_mean.lerp_(torch.where(finite, mean.float(), self.running_mean), self.momentum)
        self.running_var.lerp_(torch.where(finite, unbiased_variance.float(), self.running_var), self.momentum)
        self.num_batches_tracked += 1
