"""Judges an image as a whole: the residual discriminator of Karras et al. 2020 (StyleGAN2).

Shapes: B images, C channels, H rows, W columns.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from ..bounds import Count, Width, check_ranges
from .blur import Blur

LEAK = 0.2
SMALLEST = 4  # side of the last grid, in places


@dataclass(frozen=True)
class StyleGANConfig:
    """A discriminator of square images of one size."""

    kind: Literal["stylegan"] = "stylegan"
    resolution: Width = 256  # side of an image, a power of two
    capacity: Count = 32_768  # width times side, of every grid that is not of the largest width
    widest: Width = 512  # channels

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.resolution < 2 * SMALLEST or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two from {2 * SMALLEST} on, got {self.resolution}")
        if self.capacity < self.resolution:
            raise ValueError(f"capacity must be at least the resolution {self.resolution}, got {self.capacity}")

    @property
    def required_resolution(self) -> int:
        """The side of the only images that it takes."""
        return self.resolution

    def build(self, in_channels: int = 3) -> "StyleGANDiscriminator":
        """The network, with fresh weights from torch's global generator."""
        return StyleGANDiscriminator(self, in_channels)

    def width(self, side: int) -> int:
        """Channels of the grid of this side."""
        return min(self.capacity // side, self.widest)


class StyleGANDiscriminator(nn.Module):
    """Residual halving down to 4 x 4, then one logit for each image."""

    def __init__(self, config: StyleGANConfig, in_channels: int) -> None:
        super().__init__()
        self.resolution = config.resolution
        sides = [config.resolution >> level for level in range(int(math.log2(config.resolution // SMALLEST)))]
        self.stem = ScaledConv(in_channels, config.width(config.resolution), 1)
        self.blocks = nn.Sequential(*(HalvingBlock(config.width(side), config.width(side // 2)) for side in sides))
        width = config.width(SMALLEST)
        self.last = ScaledConv(width + 1, width, 3, padding=1)
        self.dense = ScaledLinear(width * SMALLEST**2, width)
        self.out = ScaledLinear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, S, S) images in [-1, 1], S the resolution, to (B, 1) logits, high for real.

        Raises:
            ValueError: images of another size.
        """
        if images.shape[2:] != (self.resolution, self.resolution):
            raise ValueError(
                f"this discriminator judges {self.resolution} x {self.resolution} images, got "
                f"{images.shape[2]} x {images.shape[3]}; set its resolution, or use a patch discriminator"
            )
        h = activate(self.stem(images.to(self.out.weight.dtype)))
        h = with_deviation(self.blocks(h))
        h = rearrange(activate(self.last(h)), "b c h w -> b (c h w)")
        return self.out(activate(self.dense(h)))  # type: ignore[no-any-return]


class HalvingBlock(nn.Module):
    """Two convolutions, the second halving the sides, beside a 1x1 one that halves them too."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ScaledConv(channels, channels, 3, padding=1)
        self.blur = Blur(stride=1, padding=(2, 2))
        self.conv2 = ScaledConv(channels, out_channels, 3, stride=2)
        self.halve = Blur(stride=2, padding=(1, 1))
        self.shortcut = ScaledConv(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H/2, W/2), of the variance of its input."""
        h = activate(self.conv2(self.blur(activate(self.conv1(x)))))
        return (h + self.shortcut(self.halve(x))) / math.sqrt(2)  # type: ignore[no-any-return]


class ScaledConv(nn.Conv2d):
    """A convolution whose weights are of variance 1 and scaled at run time, so that all learn at one speed."""

    def __init__(
        self, channels: int, out_channels: int, size: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(channels, out_channels, size, stride, padding, bias=bias)
        start(self)
        self.gain = 1 / math.sqrt(channels * size**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, ...)."""
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class ScaledLinear(nn.Linear):
    """A linear map scaled as ``ScaledConv``."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width)
        start(self)
        self.gain = 1 / math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) to (B, out_width)."""
        return F.linear(x, self.weight * self.gain, self.bias)


def start(layer: nn.Conv2d | nn.Linear) -> None:
    """Fresh weights of deviation 1, biases of 0."""
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU, then times the root of 2, which keeps the variance."""
    return F.leaky_relu(x, LEAK) * math.sqrt(2)


def with_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Adds a channel that tells how much the images of a group differ, so that sameness shows: Karras et al. 2018.

    The groups are of this rank's own batch, of the largest size up to ``group`` that divides it.
    """
    batch, _, height, width = x.shape
    size = max(size for size in range(1, group + 1) if batch % size == 0)
    grouped = rearrange(x.float(), "(g n) c h w -> g n c h w", g=size)
    deviation = torch.sqrt(grouped.var(0, correction=0) + 1e-8)
    each = reduce(deviation, "n c h w -> n", "mean")
    return torch.cat([x, repeat(each, "n -> (g n) 1 h w", g=size, h=height, w=width).to(x.dtype)], dim=1)
