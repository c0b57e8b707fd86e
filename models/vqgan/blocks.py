"""The pieces an encoder and a decoder are made of: residual block, spatial attention, down and up.

Shapes: B images, C channels, H rows, W columns. Names of parameters follow the released VQGAN checkpoints.
A block of a mask-aware encoder knows which places are masked, see ``masking``: (B, 1, H, W) bool at its resolution.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers.recompute import run_layer
from .masking import RegionNorm, Unchanged, attention_mask, halved, masked_conv

GROUPS = 32  # of a GroupNorm in the whole family of published networks


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
    """

    compiled_alone: ClassVar[bool] = True

    def __init__(self, channels: int, out_channels: int, dropout: float = 0.0, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
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

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        x = F.pad(x, (0, 1, 0, 1))
        if masked is None:
            return self.conv(x)  # type: ignore[no-any-return]
        return masked_conv(self.conv, x, F.pad(masked, (0, 1, 0, 1)), halved(masked))


class Upsample(nn.Module):
    """Doubles both sides by repeating every place, then a 3x3 convolution."""

    compiled_alone: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

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


class MidBlock(nn.Module):
    """Residual block, attention, residual block, on the smallest grid."""

    def __init__(self, channels: int, style: BlockConfig) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, style.dropout, style.groups)
        self.attn_1 = SpatialAttention(channels, style.groups) if style.attention else Unchanged()
        self.block_2 = ResidualBlock(channels, channels, style.dropout, style.groups)
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
        self.block = nn.ModuleList(ResidualBlock(width, out_channels, style.dropout, style.groups) for width in widths)
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
        self.downsample = Downsample(out_channels) if halve else Unchanged()

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H/2, W/2), or the same sides without ``halve``."""
        return self.downsample(super().forward(x, masked), masked)  # type: ignore[no-any-return]


class UpBlock(Level):
    """A level of the decoder; ``double`` makes the grid larger when its blocks are done."""

    def __init__(self, channels: int, out_channels: int, blocks: int, style: BlockConfig, double: bool) -> None:
        super().__init__(channels, out_channels, blocks, style)
        self.upsample = Upsample(out_channels) if double else nn.Identity()

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out_channels, 2H, 2W), or the same sides without ``double``; decoders have no mask."""
        return self.upsample(super().forward(x, masked))  # type: ignore[no-any-return]
