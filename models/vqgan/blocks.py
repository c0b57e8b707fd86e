"""The pieces an encoder and a decoder are made of: residual block, spatial attention, down and up.

Shapes: B images, C channels, H rows, W columns. Names of parameters follow the released VQGAN checkpoints.
A block of a mask-aware encoder knows which places are masked, see ``masking``: (B, 1, H, W) bool at its resolution.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers.recompute import run_layer
from .masking import RegionNorm, Unchanged, attention_mask, halved, masked_conv

GROUPS = 32  # of a GroupNorm in the whole family of published networks
Padding = Literal["zeros", "replicate"]
"""What a 3x3 convolution sees beyond a border: zeros, as published, or what lies at the border once more."""


def conv3x3(channels: int, out_channels: int, padding: Padding = "zeros") -> nn.Conv2d:
    """A 3x3 convolution that keeps both sides."""
    return nn.Conv2d(channels, out_channels, 3, padding=1, padding_mode=padding)


def group_norm(channels: int, groups: int = GROUPS) -> nn.Module:
    """GroupNorm with the family's epsilon of 1e-6; nothing for 0 groups."""
    return RegionNorm(groups, channels, eps=1e-6) if groups else Unchanged()


def init_variance_preserving(module: nn.Module) -> None:
    """Start convolutions so that a signal keeps its size through them, without biases: what a norm would see to."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and swish, added to the input: Ho et al. 2020.

    Args:
        channels: width of the input.
        out_channels: width of the output; a 1x1 convolution carries the input across where they differ.
        dropout: probability before the second convolution.
        groups: of both norms.
        padding: of both convolutions.
    """

    compiled_alone: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        out_channels: int,
        dropout: float = 0.0,
        groups: int = GROUPS,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, groups)
        self.conv1 = conv3x3(channels, out_channels, padding)
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels, padding)
        self.nin_shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H, W)."""
        h = masked_conv(self.conv1, F.silu(self.norm1(x, masked)), masked)
        h = masked_conv(self.conv2, self.dropout(F.silu(self.norm2(h, masked))), masked)
        return self.nin_shortcut(x) + h  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Every place of the grid attends to every other, one head as wide as the features, added to the input."""

    compiled_alone: ClassVar[bool] = True

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to the same shape."""
        normed = self.norm(x, masked)
        q, k, v = (rearrange(part(normed), "b c h w -> b 1 (h w) c") for part in (self.q, self.k, self.v))
        allowed = None if masked is None else attention_mask(masked)
        attended = F.scaled_dot_product_attention(q, k, v, allowed)  # (B, 1, H*W, C), scale C^-0.5
        attended = rearrange(attended, "b 1 (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(attended)  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Halves both sides by a strided 3x3 convolution, padded on the right and at the bottom only."""

    compiled_alone: ClassVar[bool] = True

    def __init__(self, channels: int, padding: Padding = "zeros") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.pad_mode = "constant" if padding == "zeros" else padding

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return masked_conv(self._halve, x, masked, None if masked is None else halved(masked))

    def _halve(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1), self.pad_mode))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles both sides by repeating every place, then a 3x3 convolution."""

    compiled_alone: ClassVar[bool] = True

    def __init__(self, channels: int, padding: Padding = "zeros") -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels, padding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BlockConfig:
    """What all blocks of one resolution share."""

    dropout: float = 0.0
    attention: bool = False
    checkpointed: bool = False  # activations inside a block are computed again in the backward instead of kept
    groups: int = GROUPS  # of every GroupNorm
    padding: Padding = "zeros"

    def residual_block(self, channels: int, out_channels: int) -> ResidualBlock:
        """A block of these."""
        return ResidualBlock(channels, out_channels, self.dropout, self.groups, self.padding)


class MidBlock(nn.Module):
    """Residual block, attention, residual block, on the smallest grid."""

    def __init__(self, channels: int, style: BlockConfig) -> None:
        super().__init__()
        self.block_1 = style.residual_block(channels, channels)
        self.attn_1 = SpatialAttention(channels, style.groups) if style.attention else Unchanged()
        self.block_2 = style.residual_block(channels, channels)
        self.checkpointed = style.checkpointed

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to the same shape."""
        given = () if masked is None else (masked,)
        for part in (self.block_1, self.attn_1, self.block_2):
            x = run_layer(part, x, *given, recompute=self.checkpointed)
        return x


class Level(nn.Module):
    """The blocks that work at one resolution: residual blocks, each followed by attention where the level has any."""

    def __init__(self, channels: int, out_channels: int, blocks: int, style: BlockConfig) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * (blocks - 1)
        self.block = nn.ModuleList(style.residual_block(width, out_channels) for width in widths)
        attentions = blocks if style.attention else 0
        self.attn = nn.ModuleList(SpatialAttention(out_channels, style.groups) for _ in range(attentions))
        self.checkpointed = style.checkpointed

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H, W)."""
        given = () if masked is None else (masked,)
        for number, block in enumerate(self.block):
            x = run_layer(block, x, *given, recompute=self.checkpointed)
            if self.attn:
                x = run_layer(self.attn[number], x, *given, recompute=self.checkpointed)
        return x


class DownBlock(Level):
    """A level of the encoder; ``halve`` makes the grid smaller when its blocks are done."""

    def __init__(self, channels: int, out_channels: int, blocks: int, style: BlockConfig, halve: bool) -> None:
        super().__init__(channels, out_channels, blocks, style)
        self.downsample = Downsample(out_channels, style.padding) if halve else Unchanged()

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H/2, W/2), or the same sides without ``halve``."""
        return self.downsample(super().forward(x, masked), masked)  # type: ignore[no-any-return]


class UpBlock(Level):
    """A level of the decoder; ``double`` makes the grid larger when its blocks are done."""

    def __init__(self, channels: int, out_channels: int, blocks: int, style: BlockConfig, double: bool) -> None:
        super().__init__(channels, out_channels, blocks, style)
        self.upsample = Upsample(out_channels, style.padding) if double else nn.Identity()

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out_channels, 2H, 2W), or the same sides without ``double``; decoders have no mask."""
        return self.upsample(super().forward(x, masked))  # type: ignore[no-any-return]
