"""Structural similarity of two images: Wang et al. 2004.

Shapes: B images, C channels, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11  # pixels a side
SIGMA = 1.5  # of the window's Gaussian, in pixels
STABILIZERS = (0.01, 0.03)  # K1 and K2, times the range of values


def ssim(real: Tensor, rebuilt: Tensor, value_range: float = 255.0) -> Tensor:
    """The mean structural similarity of each pair, over all whole windows and channels.

    The convention of the paper: a Gaussian window of 11 x 11 pixels, sigma 1.5, no padding, weighted (biased)
    covariances. Colors are compared channel by channel.

    Args:
        real, rebuilt: (B, C, H, W), both sides at least 11.
        value_range: largest minus smallest value that a pixel may have.

    Returns:
        (B,) float64.
    """
    channels = real.shape[1]
    x, y = real.double(), rebuilt.double()
    places = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    line = torch.exp(-places.square() / (2 * SIGMA**2))
    line = line / line.sum()

    def smooth(values: Tensor) -> Tensor:
        across = F.conv2d(values, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(across, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)

    mean_x, mean_y = smooth(x), smooth(y)
    variance_x = smooth(x * x) - mean_x.square()
    variance_y = smooth(y * y) - mean_y.square()
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = ((constant * value_range) ** 2 for constant in STABILIZERS)
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))
    return likeness.mean(dim=(1, 2, 3))
