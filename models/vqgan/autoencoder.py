"""The autoencoder of the first stage: pictures or label maps to a grid of codes and back. Esser et al. 2021.

Shapes: B pictures, H rows and W columns of a picture, h = H / factor and w = W / factor of its grid, E channels of a
code, N labels of a map. Names of parameters follow the released checkpoints.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bounds import Count, Decay, Natural, Width, check_ranges
from ..quantizers import Quantized, Quantizer, QuantizerConfig, VQConfig
from .blocks import GROUPS, DownLevel, Middle, Style, UpLevel, group_norm, keep_variance


@dataclass(frozen=True)
class VQGANConfig:
    """The shape of an autoencoder. The network itself takes any picture whose sides are multiples of ``factor``."""

    in_channels: Width = 3
    out_channels: Width = 3
    channels: Width = 128  # width of the highest resolution
    multipliers: tuple[Width, ...] = (1, 1, 2, 2, 4)  # width of each resolution, in ``channels``, highest first
    residual_blocks: Width = 2  # a level of the encoder; the decoder has one more
    attention_resolutions: tuple[Width, ...] = (16,)  # sides of the grids that get attention after every block
    middle_attention: bool = True  # attention between the two middle blocks
    resolution: Count = 256  # nominal side of a picture; only decides where attention sits
    z_channels: Width = 256  # width of the encoder's output
    embed_dim: Width = 256  # E, width of a code
    dropout: Decay = 0.0
    norm_groups: Natural = GROUPS  # of every GroupNorm; 0: no norms, which hide a crop's colour from short trainings
    labels: Width | None = None  # of a segmentation map; takes the place of both channel counts
    checkpoint_activations: bool = False  # slower by about a third, for much less memory
    quantizer: QuantizerConfig = field(default_factory=VQConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must name a width of at least 1 for each level, got {self.multipliers}")
        if self.channels < 1 or self.norm_groups < 0 or (self.norm_groups and self.channels % self.norm_groups):
            raise ValueError(
                f"channels must be a multiple of norm_groups, the groups of GroupNorm (0 for none), "
                f"got {self.channels} and {self.norm_groups}"
            )
        if self.residual_blocks < 1:
            raise ValueError(f"residual_blocks must be at least 1, got {self.residual_blocks}")
        if self.labels is not None and not 2 <= self.labels <= 255:
            raise ValueError(f"labels must lie in 2 to 255, 255 being the mark of no label, got {self.labels}")
        needed = self.quantizer.dimension
        if needed is not None and needed != self.embed_dim:
            raise ValueError(
                f"embed_dim must be {needed} for this {self.quantizer.kind} quantizer, got {self.embed_dim}; "
                f"set embed_dim: {needed}"
            )

    @property
    def factor(self) -> int:
        """Pixels of a picture's side to one code."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return self.quantizer.codes

    def build(self) -> "VQGAN":
        """The network, with fresh weights from torch's global generator."""
        return VQGAN(self)

    def style(self, level: int) -> Style:
        """What the blocks of this level have, 0 being the highest resolution."""
        attention = self.resolution // 2**level in self.attention_resolutions
        return Style(self.dropout, attention, self.checkpoint_activations, self.norm_groups)

    @property
    def middle(self) -> Style:
        """What the blocks of the middle have."""
        return Style(self.dropout, self.middle_attention, self.checkpoint_activations, self.norm_groups)


class Reconstruction(NamedTuple):
    """What one pass through the autoencoder leaves."""

    rebuilt: Tensor  # (B, 3, H, W): the pictures; unclamped. Logits (B, N, H, W) for maps
    features: Tensor  # (B, channels, H, W): the input of the decoder's last convolution
    quantized: Quantized
    latents: Tensor  # (B, E, h, w): what went into the quantizer


class Decoded(NamedTuple):
    """What the decoder leaves."""

    picture: Tensor  # (B, 3, H, W)
    features: Tensor  # (B, channels, H, W): the input of the last convolution


class Encoder(nn.Module):
    """Pictures (B, 3, H, W) to features (B, z_channels, h, w)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.labels = config.labels
        self.conv_in = nn.Conv2d(config.labels or config.in_channels, config.channels, 3, padding=1)
        widths = [config.channels * multiplier for multiplier in (1, *config.multipliers)]
        last = len(config.multipliers) - 1
        self.down = nn.ModuleList(
            DownLevel(widths[i], widths[i + 1], config.residual_blocks, config.style(i), halve=i < last)
            for i in range(last + 1)
        )
        self.mid = Middle(widths[-1], config.middle)
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) floats, or (B, H, W) integers for a network of maps, to (B, z_channels, h, w)."""
        dtype = self.conv_in.weight.dtype
        h = pictures.to(dtype) if self.labels is None else one_hot(pictures, self.labels, dtype)
        h = self.conv_in(h)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Features (B, z_channels, h, w) to pictures (B, 3, H, W). Level 0 is the highest resolution and runs last."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in (*config.multipliers, config.multipliers[-1])]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.middle)
        self.up = nn.ModuleList(
            UpLevel(widths[i + 1], widths[i], config.residual_blocks + 1, config.style(i), double=i > 0)
            for i in range(len(config.multipliers))
        )
        self.norm_out = group_norm(widths[0], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[0], config.labels or config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Decoded:
        """(B, z_channels, h, w) to pictures, with the input of the last convolution."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        features = F.silu(self.norm_out(h))
        return Decoded(self.conv_out(features), features)


class VQGAN(nn.Module):
    """Encoder, quantizer and decoder. The forward is one whole reconstruction, so that an engine can wrap it."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.quantize: Quantizer = config.quantizer.build(config.embed_dim)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        if not config.norm_groups:
            keep_variance(self)

    @property
    def last_layer(self) -> nn.Conv2d:
        """The decoder's last convolution, at which the adaptive weight compares gradients."""
        return self.decoder.conv_out

    def forward(self, pictures: Tensor) -> Reconstruction:
        """Rebuilds (B, 3, H, W) pictures in [-1, 1], or (B, H, W) integer maps.

        Raises:
            ValueError: sides that are no multiples of the factor.
        """
        latents = self.latents(pictures)
        quantized: Quantized = self.quantize(latents)
        rebuilt, features = self.decoder(self.post_quant_conv(quantized.features))
        return Reconstruction(rebuilt, features, quantized, latents)

    def latents(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) pictures to the (B, E, h, w) features that the quantizer gets."""
        height, width = pictures.shape[-2:]
        factor = self.config.factor
        if height % factor or width % factor:
            raise ValueError(
                f"both sides of a picture must be multiples of the factor {factor}, got {height} x {width}; "
                f"crop to {height // factor * factor} x {width // factor * factor}, or pad"
            )
        return self.quant_conv(self.encoder(pictures))  # type: ignore[no-any-return]

    def encode(self, pictures: Tensor) -> Quantized:
        """(B, 3, H, W) pictures in [-1, 1], or (B, H, W) integer maps, to their codes."""
        return self.quantize(self.latents(pictures))  # type: ignore[no-any-return]

    def decode(self, features: Tensor) -> Tensor:
        """(B, E, h, w) features of codes to (B, 3, H, W) pictures; logits (B, N, H, W) for maps."""
        decoded: Decoded = self.decoder(self.post_quant_conv(features.to(self.post_quant_conv.weight.dtype)))
        return decoded.picture

    def decode_codes(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to (B, 3, H, W) pictures."""
        return self.decode(self.quantize.lookup(indices))


def one_hot(maps: Tensor, labels: int, dtype: torch.dtype) -> Tensor:
    """(B, H, W) integers to (B, N, H, W) of zeros and ones; all zeros for a number that is no label."""
    return (maps[:, None] == torch.arange(labels, device=maps.device)[:, None, None]).to(dtype)
