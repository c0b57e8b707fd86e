"""The folder of a diffusers ``VQModel``: names, config, and which autoencoders have one."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....models.quantizers import VQConfig
from ....models.vqgan.autoencoder import VQGANConfig
from ..folders import FormatError, ModelFolder
from ..networks import Network, vqgan_metadata
from ..sources.ledger import Ledger
from ..vqgan_shapes import network_shapes

STEM = "diffusion_pytorch_model"  # of the file of weights
CLASS = "VQModel"
DOWN, UP = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
FIXED = {"act_fn": "silu", "norm_type": "group"}


def names(config: VQGANConfig) -> dict[str, str]:
    """What diffusers calls each tensor of the network."""
    return {name: _name(name, len(config.channel_multipliers)) for name in network_shapes(config)}


def _name(name: str, levels: int) -> str:
    name = re.sub(r"\.up\.(\d+)\.", lambda level: f".up.{levels - 1 - int(level[1])}.", name)
    name = re.sub(r"attn(_1|\.\d+)\.(norm|q|k|v|proj_out)\.", lambda m: f"attn{m[1]}.{ATTENTION[m[2]]}.", name)
    for pattern, replacement in (
        (r"\.mid\.block_([12])\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}."),
        (r"\.mid\.attn_1\.", lambda _: ".mid_block.attentions.0."),
        (r"\.(down|up)\.(\d+)\.block\.", lambda m: f".{m[1]}_blocks.{m[2]}.resnets."),
        (r"\.(down|up)\.(\d+)\.attn\.", lambda m: f".{m[1]}_blocks.{m[2]}.attentions."),
        (r"\.(down|up)\.(\d+)\.(down|up)sample\.", lambda m: f".{m[1]}_blocks.{m[2]}.{m[3]}samplers.0."),
        (r"\.norm_out\.", lambda _: ".conv_norm_out."),
        (r"\.nin_shortcut\.", lambda _: ".conv_shortcut."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def exported(config: VQGANConfig, weights: Mapping[str, Tensor]) -> ModelFolder:
    """The folder of an autoencoder.

    Raises:
        FormatError: diffusers' network cannot do what this one does.
    """
    kind = config.quantizer.kind
    if kind not in ("vq", "ema"):
        raise FormatError(f"a VQModel takes the code that is nearest, and this quantizer is of kind {kind}")
    if not config.norm_groups:
        raise FormatError("a VQModel has norms in every block, and this network has none (norm_groups: 0)")
    if config.channel_multipliers[0] != 1:
        raise FormatError(
            f"a VQModel's first level is as wide as its first convolution, and here it is "
            f"{config.channel_multipliers[0]} times as wide (channel_multipliers)"
        )
    if config.input_range != "signed":
        raise FormatError("a VQModel gets images in [-1, 1] as they are, and this network turns them to [0, 1] first")
    if config.padding != "zeros":
        raise FormatError(f"a VQModel sees zeros beyond a border, and this network has padding {config.padding}")
    renamed = names(config)
    flat = {renamed[name]: _matrix(name, weights[name]) for name in renamed}
    attention = [config.block_config(level).attention for level in range(len(config.channel_multipliers))]
    return ModelFolder(
        STEM,
        flat,
        {
            "_class_name": CLASS,
            "_diffusers_version": "0.30.0",
            **FIXED,
            "in_channels": config.num_labels or config.in_channels,
            "out_channels": config.num_labels or config.out_channels,
            "block_out_channels": [config.channels * multiplier for multiplier in config.channel_multipliers],
            "down_block_types": [DOWN[each] for each in attention],
            "up_block_types": [UP[each] for each in reversed(attention)],
            "layers_per_block": config.num_res_blocks,
            "latent_channels": config.z_channels,
            "vq_embed_dim": config.embed_dim,
            "num_vq_embeddings": config.codebook_size,
            "norm_num_groups": config.norm_groups,
            "mid_block_add_attention": config.mid_attention,
            "sample_size": config.resolution,
            "scaling_factor": 1.0,
            "lookup_from_codebook": True,
            "force_upcast": False,
        },
        {},
    )


def _matrix(name: str, tensor: Tensor) -> Tensor:
    """The 1x1 convolutions of attention are matrices in diffusers."""
    in_attention = re.search(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$", name)
    return tensor.flatten(1) if in_attention else tensor


def imported(ledger: Ledger, said: Mapping[str, Any]) -> Network:
    """The autoencoder of a folder whose config.json says ``said``.

    Raises:
        ValueError: the config is none of a VQModel that this project's network can be, or its tensors are of another.
    """
    config = _config(said, ledger.source)
    wanted = network_shapes(config)
    weights = ledger.fill(wanted, names(config), "autoencoder", squeezed=True)
    weights["quantize.idle"] = torch.zeros(config.codebook_size, dtype=torch.int64)
    return Network(weights, vqgan_metadata(config))


def _config(said: Mapping[str, Any], source: str) -> VQGANConfig:
    def number(name: str, default: int) -> int:
        value = said.get(name, default)
        if type(value) is not int or not 0 < value <= 65_536:
            raise ValueError(f"{source}: {name} in its config.json must be a whole number up to 65536, got {value!r}")
        return value

    for name, value in FIXED.items():
        if said.get(name, value) != value:
            raise ValueError(f"{source}: {name} is {said[name]!r}, and only {value!r} can be imported")
    widths, down, up = (said.get(name) for name in ("block_out_channels", "down_block_types", "up_block_types"))
    if not isinstance(widths, list) or not widths or any(type(width) is not int or width < 1 for width in widths):
        raise ValueError(f"{source}: block_out_channels in its config.json are no list of widths, got {widths!r}")
    if not isinstance(down, list) or not isinstance(up, list) or len(down) != len(widths) or not set(down) <= {*DOWN}:
        raise ValueError(f"{source}: down_block_types must be {len(widths)} of {', '.join(DOWN)}, got {down!r}")
    if up != [UP[DOWN.index(kind)] for kind in reversed(down)] or any(width % widths[0] for width in widths):
        raise ValueError(
            f"{source}: its decoder must mirror its encoder, in widths that are multiples of the first, got {widths}, "
            f"{down} and {up}"
        )
    inputs, outputs = number("in_channels", 3), number("out_channels", 3)
    is_map = inputs == outputs and inputs not in (1, 3)
    nominal = max(256, 2 ** len(widths))
    return VQGANConfig(
        in_channels=3 if is_map else inputs,
        out_channels=3 if is_map else outputs,
        channels=widths[0],
        channel_multipliers=tuple(width // widths[0] for width in widths),
        num_res_blocks=number("layers_per_block", 1),
        attention_resolutions=tuple(nominal // 2**level for level, kind in enumerate(down) if kind == DOWN[1]),
        mid_attention=bool(said.get("mid_block_add_attention", True)),
        resolution=nominal,
        z_channels=number("latent_channels", 3),
        embed_dim=number("vq_embed_dim", number("latent_channels", 3))
        if said.get("vq_embed_dim") is not None
        else number("latent_channels", 3),
        norm_groups=number("norm_num_groups", 32),
        num_labels=inputs if is_map else None,
        quantizer=VQConfig(codebook_size=number("num_vq_embeddings", 256), legacy_beta=True),
    )
