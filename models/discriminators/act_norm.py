"""Activation normalization, which begins with the statistics of its first batch: Kingma and Dhariwal 2018 (Glow).

Shapes: B images, C channels, H rows, W columns.
"""

import torch
from torch import Tensor, nn

from ..layers.cross_rank_statistics import CrossRankStatistics
from ..layers.float32_buffers import Float32Buffers

EPSILON = 1e-6  # added to a deviation


class ActNorm(Float32Buffers, CrossRankStatistics):
    """Shifts and scales each channel by trained numbers, so that its first batch in training has mean 0, deviation 1.

    What the first batch says lies in buffers, and what is trained begins at 0 beside it: a parameter cannot be written
    in a forward where ZeRO has partitioned it. Optimizers without decay of weights take the same steps either way.
    """

    first_loc: Tensor
    first_scale: Tensor
    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(channels))
        self.scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("first_loc", torch.zeros(channels))
        self.register_buffer("first_scale", torch.ones(channels))
        self.register_buffer("initialized", torch.tensor(False))
        self._begun = False  # in this process

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and type; the arithmetic is in float32."""
        values = x.float()
        if self.training and not self._begun:
            self._begin(values.detach())
            self._begun = True
        shift, scale = self.first_loc + self.loc.float(), self.first_scale + self.scale.float()
        return ((values + shift[:, None, None]) * scale[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _begin(self, values: Tensor) -> None:
        """Takes the mean and unbiased deviation of each channel over the batches of all ranks, unless it has them.

        Whether it has is not asked of the device, so that nothing waits for it.
        """
        wide = values.double()
        size = torch.full((values.shape[1],), values.numel() / values.shape[1], dtype=torch.float64, device=wide.device)
        parts = torch.stack([size, wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])
        total, first, second = self.reduce(parts)
        mean = first / total
        variance = (second - total * mean.square()).clamp(min=0) / (total - 1).clamp(min=1)
        scale = 1 / (variance.sqrt() + EPSILON)
        self.first_loc.copy_(torch.where(self.initialized, self.first_loc, -mean.float()))
        self.first_scale.copy_(torch.where(self.initialized, self.first_scale, scale.float()))
        self.initialized.fill_(True)
