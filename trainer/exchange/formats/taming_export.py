"""Folders that the published taming-transformers loads: ``model.ckpt``, with ``strict=True``, and ``config.yaml``.

Shapes: K codes, P tokens of the condition, N codes of a window, C channels.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....models.conditions import ClassConfig, CodeMapConfig, ConditionConfig, CoordinatesConfig, UnconditionalConfig
from ....models.priors import PriorConfig
from ....models.priors.gpt import GPTConfig
from ....models.priors.orders import OrderKind
from ....models.vqgan.autoencoder import VQGANConfig
from ...config import from_mapping
from ..folders import FormatError
from ..vqgan_shapes import network_shapes

GROUPS = 32
PERMUTERS: dict[OrderKind, str] = {
    "raster": "Identity",
    "taming_spiral_in": "SpiralIn",
    "taming_spiral_out": "SpiralOut",
    "z_curve": "ZCurve",
    "subsample": "SubSample",
    "alternate": "AlternateParsing",
}
RANDOM_PERMUTER = "RandomPermute"  # of other orders: any class will do, for the tables in the weights replace its own
Weights = Mapping[str, Tensor]
Section = dict[str, Any]


def write(folder: Path, state: Weights, model: Section) -> None:
    """Fill a folder."""
    torch.save({"state_dict": dict(state)}, folder / "model.ckpt")
    (folder / "config.yaml").write_text(json.dumps({"model": model}, indent=2) + "\n", encoding="utf-8")  # JSON is YAML


def vqgan(config: VQGANConfig, weights: Weights) -> tuple[dict[str, Tensor], Section]:
    """The state of an autoencoder and the config of its class.

    Raises:
        FormatError: the published network cannot do what this one does.
    """
    kind = config.quantizer.kind
    if kind not in ("vq", "ema", "gumbel"):
        raise FormatError(f"the published quantizers are vq and gumbel, and this one is of kind {kind}")
    if config.norm_groups != GROUPS:
        raise FormatError(f"the published networks have norms of {GROUPS} groups, and this one {config.norm_groups}")
    if not config.mid_attention:
        raise FormatError("the published networks have attention in the middle, and this one has none (mid_attention)")
    if config.input_range != "signed":
        raise FormatError("the published networks get images in [-1, 1], and this one turns them to [0, 1] first")
    if config.padding != "zeros":
        raise FormatError(f"the published networks see zeros beyond a border, and here padding is {config.padding}")
    state = {name: weights[name] for name in network_shapes(config)}
    params: Section = {
        "ddconfig": {
            "double_z": False,
            "z_channels": config.z_channels,
            "resolution": config.resolution,
            "in_channels": config.num_labels or config.in_channels,
            "out_ch": config.num_labels or config.out_channels,
            "ch": config.channels,
            "ch_mult": list(config.channel_multipliers),
            "num_res_blocks": config.num_res_blocks,
            "attn_resolutions": list(config.attention_resolutions),
            "dropout": config.dropout,
        },
        "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
        "embed_dim": config.embed_dim,
        "n_embed": config.codebook_size,
    }
    target = "taming.models.vqgan.GumbelVQ" if kind == "gumbel" else "taming.models.vqgan.VQModel"
    if kind == "gumbel":
        scheduler = {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler"}
        params |= {"kl_weight": 1e-8, "temperature_scheduler_config": scheduler}
    if config.num_labels is not None:
        target = "taming.models.vqgan.VQSegmentationModel"
        params["n_labels"] = config.num_labels
        colors = torch.randn(3, config.num_labels, 1, 1, generator=torch.Generator().manual_seed(0))
        state["colorize"] = colors  # of the maps in its logs; nothing depends on it
    return state, {"target": target, "params": params}


def prior(
    config: PriorConfig,
    weights: Weights,
    metadata: Mapping[str, Any],
    stages: Mapping[str, tuple[VQGANConfig, Weights]],
) -> tuple[dict[str, Tensor], Section]:
    """The state of a prior with its stages, and the config of its class.

    Args:
        stages: ``image``, and ``condition`` where the condition has a tokenizer.

    Raises:
        FormatError: the published transformer cannot do what this prior does.
    """
    known = isinstance(config, GPTConfig) and (config.block, config.activation) == ("gpt2", "gelu")
    if not isinstance(config, GPTConfig) or not known or config.annealing is not None:
        raise FormatError(
            "the published prior is a GPT of block gpt2 with gelu and without annealing, and this one is another"
        )
    condition: ConditionConfig = from_mapping(ConditionConfig, dict(metadata["condition"]), "the condition", saved=True)
    if weights["condition.absent"].any():
        raise FormatError(
            "the published prior cannot drop its condition, and this one has learnt to (condition_dropout)"
        )
    tokens = weights["tok_emb.weight"]
    stage, key = _stage(condition, weights, tokens, stages)
    length = len(weights["pos_emb"][0])
    cells = config.order.build(config.window)
    prefix = length - len(cells)
    positions = weights["pos_emb"].clone()
    positions[:, prefix:] = weights["pos_emb"][:, prefix + cells]
    transformer = {name: weights[name] for name in weights if not name.startswith(("condition.", "pos_emb"))}
    transformer["pos_emb"] = positions
    mask = torch.ones(1, 1, length, length).tril()
    mask[..., : config.bidirectional_prefix, : config.bidirectional_prefix] = 1
    transformer |= {f"blocks.{layer}.attn.mask": mask for layer in range(config.layers)}
    state = {f"transformer.{name}": tensor for name, tensor in transformer.items()}
    first, first_config = vqgan(*stages["image"])
    state |= {f"first_stage_model.{name}": tensor for name, tensor in first.items()}
    if "condition" in stages:
        second, stage = vqgan(*stages["condition"])
        state |= {f"cond_stage_model.{name}": tensor for name, tensor in second.items()}
    params: Section = {
        "cond_stage_key": key,
        "transformer_config": {
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {
                "vocab_size": len(tokens),
                "block_size": length,
                "n_layer": config.layers,
                "n_head": config.heads,
                "n_embd": config.width,
                "n_unmasked": config.bidirectional_prefix,
            },
        },
        "first_stage_config": first_config,
        "cond_stage_config": stage,
    }
    if config.order.kind != "raster":
        state |= {"permuter.forward_shuffle_idx": cells, "permuter.backward_shuffle_idx": cells.argsort()}
        sides = {"H": config.window[0], "W": config.window[1]}
        permuter = PERMUTERS.get(config.order.kind, RANDOM_PERMUTER)
        if permuter == RANDOM_PERMUTER:
            sides = {"H": config.window[0], "W": config.window[1], "seed": config.order.seed}
        target = f"taming.modules.transformer.permuter.{permuter}"
        params["permuter_config"] = {"target": target, "params": sides}
    return state, {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": params}


def _stage(
    condition: ConditionConfig, weights: Weights, tokens: Tensor, stages: Mapping[str, Any]
) -> tuple[Section, str]:
    """The config of the condition's stage, and the batch's key; its tokens must be those of the codes."""
    if isinstance(condition, UnconditionalConfig):
        same = (tokens == weights["condition.start"]).all(dim=1).nonzero()
        if not len(same):
            raise _apart("the token that starts a sequence")
        start = {"sos_token": int(same[0, 0])}
        return {"target": "taming.modules.util.SOSProvider", "params": start}, "image"
    if not isinstance(condition, ClassConfig | CodeMapConfig | CoordinatesConfig):
        raise FormatError(f"the published code has no condition of kind {condition.kind} over the codes' vocabulary")
    table = weights["condition.table.weight"]
    if len(table) > len(tokens) or not torch.equal(table, tokens[: len(table)]):
        raise _apart("the condition")
    if isinstance(condition, ClassConfig):
        classes = {"n_classes": condition.classes}
        return {"target": "taming.modules.util.Labelator", "params": classes}, "class_label"
    if isinstance(condition, CoordinatesConfig):
        numbers = {"n_embed": condition.vocab_size, "down_factor": stages["image"][0].factor}
        return {"target": "taming.modules.misc.coord.CoordStage", "params": numbers}, "coord"
    if "condition" not in stages:
        raise FormatError("the published prior reads maps through a tokenizer, and this one their commonest labels")
    return {}, "depth" if condition.field == "depth_codes" else "segmentation"


def _apart(what: str) -> FormatError:
    return FormatError(
        f"the published prior has one table for codes and condition, and here {what} has vectors of its own, as in "
        "every prior that was trained here"
    )
