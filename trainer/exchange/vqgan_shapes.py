"""The config of an autoencoder and of its discriminator from the shapes of their tensors, under the published names."""

import re

import torch

from ...models.discriminators import PatchGANConfig
from ...models.discriminators.patchgan import Norm
from ...models.quantizers import CosineConfig, GumbelConfig, QuantizerConfig, VQConfig
from ...models.vqgan.autoencoder import VQGANConfig
from .sources.ledger import Shapes, numbered

NOMINAL = 256  # side of an image, from which the sides of the grids with attention are counted


def vqgan_config(shapes: Shapes, source: str, *, unit_codes: bool = False, norm_groups: int = 32) -> VQGANConfig:
    """The config of the autoencoder that these tensors belong to.

    Args:
        shapes: of all tensors of the encoder, decoder, quantizer and the convolutions between them.
        source: for messages.
        unit_codes: whether codes are compared by their angle, which shapes cannot tell.
        norm_groups: of every norm, where there are any.

    Raises:
        ValueError: it is no autoencoder of this family, or one of a kind that cannot be imported.
    """
    for needed in ("encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_out.weight", "quant_conv.weight"):
        if len(shapes.get(needed, ())) != 4:
            raise ValueError(f"{source} has no convolution {needed}; it is no VQGAN whose layout is known")
    channels, inputs = shapes["encoder.conv_in.weight"][:2]
    outputs = shapes["decoder.conv_out.weight"][0]
    levels = numbered(shapes, r"encoder\.down\.(\d+)\.")
    widths = [shapes.get(f"encoder.down.{level}.block.0.conv1.weight", (0,))[0] for level in range(levels)]
    if not widths or not channels or any(not width or width % channels for width in widths):
        raise ValueError(f"{source}: its levels are {widths} wide, which must be multiples of the first {channels}")
    if levels > 1 and "encoder.down.0.downsample.conv.weight" not in shapes:
        raise ValueError(f"{source} halves its grids without convolutions, which this project's networks cannot do")
    nominal = max(NOMINAL, 2**levels)
    attention = [level for level in range(levels) if f"encoder.down.{level}.attn.0.q.weight" in shapes]
    has_norms = "encoder.norm_out.weight" in shapes
    is_map = inputs == outputs and inputs not in (1, 3)
    return VQGANConfig(
        in_channels=3 if is_map else inputs,
        out_channels=3 if is_map else outputs,
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_res_blocks=numbered(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        attention_resolutions=tuple(nominal // 2**level for level in attention),
        mid_attention="encoder.mid.attn_1.q.weight" in shapes,
        resolution=nominal,
        z_channels=shapes["encoder.conv_out.weight"][0],
        embed_dim=shapes["quant_conv.weight"][0],
        norm_groups=norm_groups if has_norms else 0,
        num_labels=inputs if is_map else None,
        quantizer=_quantizer(shapes, source, unit_codes),
    )


def _quantizer(shapes: Shapes, source: str, unit_codes: bool) -> QuantizerConfig:
    if "quantize.embed.weight" in shapes:
        return GumbelConfig(codebook_size=shapes["quantize.embed.weight"][0])
    if "quantize.embedding.weight" not in shapes:
        raise ValueError(f"{source} has no codebook (quantize.embedding.weight or quantize.embed.weight)")
    size = shapes["quantize.embedding.weight"][0]
    return CosineConfig(codebook_size=size) if unit_codes else VQConfig(codebook_size=size, legacy_beta=True)


def network_shapes(config: VQGANConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of an autoencoder that other projects have too."""
    with torch.device("meta"):
        network = config.build()
    return {name: tuple(t.shape) for name, t in network.state_dict().items() if name != "quantize.idle"}


def discriminator_config(shapes: Shapes) -> PatchGANConfig | None:
    """The config of the published patch discriminator with these tensors ``main.*``; None for any other network."""
    layers = (
        sum(1 for name, shape in shapes.items() if re.fullmatch(r"main\.\d+\.weight", name) and len(shape) == 4) - 2
    )
    if layers < 1 or "main.0.weight" not in shapes or not {"main.3.running_mean", "main.3.loc"} & shapes.keys():
        return None
    norm: Norm = "act" if "main.3.loc" in shapes else "batch"
    config = PatchGANConfig(channels=shapes["main.0.weight"][0], layers=layers, norm=norm)
    with torch.device("meta"):
        network = config.build(shapes["main.0.weight"][1])
    wanted = {
        name: (1, *tensor.shape, 1, 1) if name.endswith((".loc", ".scale")) else tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith((".first_loc", ".first_scale"))  # of ActNorm, which is one number a channel elsewhere
    }
    return config if wanted == dict(shapes) else None
