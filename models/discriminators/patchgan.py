"""Judges every patch of an image: Isola et al. 2017 (PatchGAN)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..bounds import Depth, Width, check_ranges
from .act_norm import ActNorm
from .sync_batch_norm import BatchNorm

Norm = Literal["batch", "group", "act"]
LEAK = 0.2
WIDEST = 8  # times ``channels``


@dataclass(frozen=True)
class PatchGANConfig:
    """Of three layers and 64 channels, with batch norm, as in the published VQGAN."""

    kind: Literal["patchgan"] = "patchgan"
    required_resolution: ClassVar[None] = None  # takes images of any size
    channels: Width = 64  # width of the first layer; doubles with each of the others up to 8 times
    layers: Depth = 3  # that halve the sides
    norm: Norm = "batch"  # act: ActNorm, with biases before it (the reference's use_actnorm)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.norm == "group" and self.channels % 16:
            raise ValueError(f"channels must be a multiple of 16 with norm: group, got {self.channels}")

    def build(self, in_channels: int = 3) -> "PatchGAN":
        """The network, with fresh weights from torch's global generator."""
        return PatchGAN(self, in_channels)


class PatchGAN(nn.Module):
    """A stack of 4x4 convolutions that ends in one logit for each patch."""

    def __init__(self, config: PatchGANConfig, in_channels: int) -> None:
        super().__init__()
        width = config.channels
        parts: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        for layer in range(1, config.layers + 1):
            out = config.channels * min(2**layer, WIDEST)
            stride = 2 if layer < config.layers else 1
            bias = config.norm == "act"  # the others would take it away again
            parts += [nn.Conv2d(width, out, 4, stride=stride, padding=1, bias=bias), norm(config.norm, out)]
            parts += [nn.LeakyReLU(LEAK)]
            width = out
        parts += [nn.Conv2d(width, 1, 4, stride=1, padding=1)]
        self.main = nn.Sequential(*parts)
        self.apply(start)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) images in [-1, 1] to (B, 1, h, w) logits, high for real; 30 x 30 for 256 pixels."""
        dtype = next(self.parameters()).dtype
        return self.main(images.to(dtype))  # type: ignore[no-any-return]


def norm(kind: Norm, channels: int) -> nn.Module:
    """The normalization of this name."""
    if kind == "act":
        return ActNorm(channels)
    return BatchNorm(channels) if kind == "batch" else nn.GroupNorm(32, channels)


def start(module: nn.Module) -> None:
    """Fresh weights as the published discriminator's: deviation 0.02."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, BatchNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
