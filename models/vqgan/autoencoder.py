"""The autoencoder of the first stage: images or label maps to a grid of codes and back. Esser et al. 2021.

Shapes: B images, H rows and W columns of an image, h = H / factor and w = W / factor of its grid, E channels of a
code, N labels of a map. Names of parameters follow the released checkpoints.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bounds import Count, Decay, Natural, Width, check_ranges
from ..quantizers import Quantizer, QuantizerConfig, QuantizerOutput, VQConfig
from .blocks import (
    GROUPS,
    BlockConfig,
    DownBlock,
    MidBlock,
    Padding,
    UpBlock,
    conv3x3,
    group_norm,
    init_variance_preserving,
)
from .masking import halved, masked_conv


@dataclass(frozen=True)
class VQGANConfig:
    """The shape of an autoencoder. The network itself takes any image whose sides are multiples of ``factor``."""

    in_channels: Width = 3
    out_channels: Width = 3
    channels: Width = 128  # width of the highest resolution
    channel_multipliers: tuple[Width, ...] = (1, 1, 2, 2, 4)  # width of each resolution, in ``channels``, highest first
    num_res_blocks: Width = 2  # a level of the encoder; the decoder has one more
    attention_resolutions: tuple[Width, ...] = (16,)  # sides of the grids that get attention after every block
    mid_attention: bool = True  # attention between the two middle blocks
    resolution: Count = 256  # nominal side of an image; only decides where attention sits
    z_channels: Width = 256  # width of the encoder's output
    embed_dim: Width = 256  # E, width of a code
    dropout: Decay = 0.0
    norm_groups: Natural = GROUPS  # of every GroupNorm; 0: no norms, which hide a crop's color from short trainings
    num_labels: Width | None = None  # of a segmentation map; takes the place of both channel counts
    # What the first convolution gets of an image: its numbers in [-1, 1], or in [0, 1], as in MaskGIT.
    input_range: Literal["signed", "unit"] = "signed"
    # What convolutions see beyond a border: zeros, as published, or what lies at the border once more.
    padding: Padding = "zeros"
    mask_aware: bool = False  # the encoder may know which pixels are masked: known codes then depend on known ones
    activation_checkpointing: bool = False  # slower by about a third, for much less memory
    quantizer: QuantizerConfig = field(default_factory=VQConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers must name a width of at least 1 for each level, got none")
        if self.norm_groups and self.channels % self.norm_groups:
            raise ValueError(
                f"channels must be a multiple of norm_groups, the groups of GroupNorm (0 for none), "
                f"got {self.channels} and {self.norm_groups}"
            )
        if self.num_labels is not None and not 2 <= self.num_labels <= 255:
            raise ValueError(f"num_labels must lie in 2 to 255, 255 being the mark of no label, got {self.num_labels}")
        if self.num_labels is not None and self.input_range != "signed":
            raise ValueError(
                f"input_range {self.input_range} is of images, and num_labels (={self.num_labels}) of maps"
            )
        if self.mask_aware and self.num_labels is not None:
            raise ValueError("mask_aware is for images, whose label map is known whole; set mask_aware: false")
        needed = self.quantizer.dimension
        if needed is not None and needed != self.embed_dim:
            raise ValueError(
                f"embed_dim must be {needed} for this {self.quantizer.kind} quantizer, got {self.embed_dim}; "
                f"set embed_dim: {needed}"
            )

    @property
    def factor(self) -> int:
        """Pixels of an image's side to one code."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    @property
    def codebook_size(self) -> int:
        """Size of the codebook."""
        return self.quantizer.codebook_size

    def build(self) -> "VQGAN":
        """The network, with fresh weights from torch's global generator."""
        return VQGAN(self)

    def block_config(self, level: int) -> BlockConfig:
        """What the blocks of this level have, 0 being the highest resolution."""
        attention = self.resolution // 2**level in self.attention_resolutions
        return self._blocks(attention)

    @property
    def mid_block(self) -> BlockConfig:
        """What the blocks of the middle have."""
        return self._blocks(self.mid_attention)

    def _blocks(self, attention: bool) -> BlockConfig:
        return BlockConfig(self.dropout, attention, self.activation_checkpointing, self.norm_groups, self.padding)


class Reconstruction(NamedTuple):
    """What one pass through the autoencoder leaves."""

    reconstruction: Tensor  # (B, 3, H, W): the images; unclamped. Logits (B, N, H, W) for maps
    features: Tensor  # (B, channels, H, W): the input of the decoder's last convolution
    quantized: QuantizerOutput
    latents: Tensor  # (B, E, h, w): what went into the quantizer


class Decoded(NamedTuple):
    """What the decoder leaves."""

    image: Tensor  # (B, 3, H, W)
    features: Tensor  # (B, channels, H, W): the input of the last convolution


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, z_channels, h, w)."""

    compiled_methods: ClassVar[tuple[str, ...]] = ("normed",)

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.labels = config.num_labels
        self.input_range = config.input_range
        self.conv_in = conv3x3(config.num_labels or config.in_channels, config.channels, config.padding)
        widths = [config.channels * multiplier for multiplier in (1, *config.channel_multipliers)]
        last = len(config.channel_multipliers) - 1
        self.down = nn.ModuleList(
            DownBlock(widths[i], widths[i + 1], config.num_res_blocks, config.block_config(i), halve=i < last)
            for i in range(last + 1)
        )
        self.mid = MidBlock(widths[-1], config.mid_block)
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.conv_out = conv3x3(widths[-1], config.z_channels, config.padding)

    def forward(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) floats, or (B, H, W) integers for a network of maps, to (B, z_channels, h, w).

        With ``masked``, (B, H, W) bool, a place of the result that covers known pixels alone depends on known pixels
        alone.
        """
        if masked is not None:
            masked = masked[:, None]
        h = self.first(images, masked)
        for number, level in enumerate(self.down):
            h = level(h, masked)
            if masked is not None and number + 1 < len(self.down):
                masked = halved(masked)
        return masked_conv(self.conv_out, self.normed(self.mid(h, masked), masked), masked)

    def first(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """What the first convolution gives of (B, 3, H, W) floats, or (B, H, W) integers: (B, channels, H, W)."""
        dtype = self.conv_in.weight.dtype
        if self.labels is not None:
            return self.conv_in(one_hot(images, self.labels, dtype))  # type: ignore[no-any-return]
        x = images.to(dtype)
        return masked_conv(self.conv_in, (x + 1) / 2 if self.input_range == "unit" else x, masked)

    def normed(self, h: Tensor, masked: Tensor | None = None) -> Tensor:
        """What the last convolution gets of (B, C, h, w)."""
        return F.silu(self.norm_out(h, masked))


class Decoder(nn.Module):
    """Features (B, z_channels, h, w) to images (B, 3, H, W). Level 0 is the highest resolution and runs last."""

    compiled_methods: ClassVar[tuple[str, ...]] = ("normed",)

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [
            config.channels * multiplier for multiplier in (*config.channel_multipliers, config.channel_multipliers[-1])
        ]
        self.conv_in = conv3x3(config.z_channels, widths[-1], config.padding)
        self.mid = MidBlock(widths[-1], config.mid_block)
        self.up = nn.ModuleList(
            UpBlock(widths[i + 1], widths[i], config.num_res_blocks + 1, config.block_config(i), double=i > 0)
            for i in range(len(config.channel_multipliers))
        )
        self.norm_out = group_norm(widths[0], config.norm_groups)
        self.conv_out = conv3x3(widths[0], config.num_labels or config.out_channels, config.padding)

    def forward(self, z: Tensor) -> Decoded:
        """(B, z_channels, h, w) to images, with the input of the last convolution."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        features = self.normed(h)
        return Decoded(self.conv_out(features), features)

    def normed(self, h: Tensor) -> Tensor:
        """What the last convolution gets of (B, channels, H, W)."""
        return F.silu(self.norm_out(h))


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
            init_variance_preserving(self)

    @property
    def last_layer(self) -> nn.Conv2d:
        """The decoder's last convolution, at which the adaptive weight compares gradients."""
        return self.decoder.conv_out

    def forward(self, images: Tensor, masked: Tensor | None = None) -> Reconstruction:
        """Rebuilds (B, 3, H, W) images in [-1, 1], or (B, H, W) integer maps; arguments as of ``latents``.

        Raises:
            ValueError: as ``latents``.
        """
        latents = self.latents(images, masked)
        quantized: QuantizerOutput = self.quantize(latents)
        rebuilt, features = self.decoder(self.post_quant_conv(quantized.features))
        return Reconstruction(rebuilt, features, quantized, latents)

    def latents(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) images to the (B, E, h, w) features that the quantizer gets.

        Args:
            masked: (B, H, W) bool, pixels that are to be made anew. Cells without any are computed from pixels outside
                the mask alone; all others from everything.

        Raises:
            ValueError: sides that are no multiples of the factor, or a mask for a network that does not know masks.
        """
        height, width = images.shape[-2:]
        if masked is not None and not self.config.mask_aware:
            raise ValueError("this tokenizer does not know masks; train one with model.mask_aware: true")
        factor = self.config.factor
        if height % factor or width % factor:
            raise ValueError(
                f"both sides of an image must be multiples of the factor {factor}, got {height} x {width}; "
                f"crop to {height // factor * factor} x {width // factor * factor}, or pad"
            )
        return self.quant_conv(self.encoder(images, masked))  # type: ignore[no-any-return]

    def encode(self, images: Tensor, masked: Tensor | None = None) -> QuantizerOutput:
        """(B, 3, H, W) images in [-1, 1], or (B, H, W) integer maps, to their codes; arguments as of ``latents``."""
        return self.quantize(self.latents(images, masked))  # type: ignore[no-any-return]

    def decode(self, features: Tensor) -> Tensor:
        """(B, E, h, w) features of codes to (B, 3, H, W) images; logits (B, N, H, W) for maps."""
        decoded: Decoded = self.decoder(self.post_quant_conv(features.to(self.post_quant_conv.weight.dtype)))
        return decoded.image

    def decode_codes(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to (B, 3, H, W) images."""
        return self.decode(self.quantize.lookup(indices))


def one_hot(maps: Tensor, labels: int, dtype: torch.dtype) -> Tensor:
    """(B, H, W) integers to (B, N, H, W) of zeros and ones; all zeros for a number that is no label."""
    return (maps[:, None] == torch.arange(labels, device=maps.device)[:, None, None]).to(dtype)
