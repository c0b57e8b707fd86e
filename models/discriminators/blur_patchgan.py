"""A patch discriminator that halves by blurring: as in MaskBit's VQGAN+ (Weber et al. 2024)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..bounds import Depth, Width, check_ranges
from .blur import Blur

LEAK = 0.1
GROUPS = 32  # of GroupNorm


@dataclass(frozen=True)
class BlurPatchGANConfig:
    """A 5x5 stem, stages that each double the width and halve the sides, and a head with one logit for each patch."""

    kind: Literal["blur_patchgan"] = "blur_patchgan"
    required_resolution: ClassVar[None] = None  # takes images of any size
    channels: Width = 128  # width of the stem and of the first stage
    stages: Depth = 4

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.channels % GROUPS:
            raise ValueError(f"channels must be a multiple of the {GROUPS} groups of GroupNorm, got {self.channels}")

    def build(self, in_channels: int = 3) -> "BlurPatchGAN":
        """The network, with fresh weights from torch's global generator."""
        return BlurPatchGAN(self, in_channels)


class BlurPatchGAN(nn.Module):
    """Judges every patch of an image; normalizes each image alone, so that ranks need not talk."""

    def __init__(self, config: BlurPatchGANConfig, in_channels: int) -> None:
        super().__init__()
        width = config.channels
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 5, padding=2), nn.LeakyReLU(LEAK))
        widths = [width] + [width * 2**stage for stage in range(config.stages)]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(widths[stage], widths[stage + 1], 3, padding=1),
                    Blur(stride=2, padding=(1, 1)),
                    nn.GroupNorm(GROUPS, widths[stage + 1]),
                    nn.LeakyReLU(LEAK),
                )
                for stage in range(config.stages)
            )
        )
        self.head = nn.Sequential(
            nn.Conv2d(widths[-1], width, 1), nn.LeakyReLU(LEAK), nn.Conv2d(width, 1, 5, padding=2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) images in [-1, 1] to (B, 1, h, w) logits, high for real; 16 x 16 for 256 pixels."""
        dtype = next(self.parameters()).dtype
        return self.head(self.stages(self.stem(images.to(dtype))))  # type: ignore[no-any-return]
