"""The folder of a transformers ``GPT2LMHeadModel``: one vocabulary for codes and condition, and a generation config.

Tokens: the K codes, then the rows of the condition, then one that stands for no condition. Positions: the P tokens of
the condition, then the N codes in the prior's order. The section ``smalti`` of config.json says so; transformers keeps
it and does not read it.

Shapes: V = K + rows + 1 tokens, C channels.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....models.conditions import (
    ClassConfig,
    CodeMapConfig,
    ConditionConfig,
    CoordinatesConfig,
    UnconditionalConfig,
)
from ....models.priors import PriorConfig
from ....models.priors.gpt import GPTConfig
from ...config import from_mapping, to_mapping
from ..folders import FormatError, ModelFolder
from ..networks import Network
from ..sources.ledger import Ledger

STEM = "model"
ARCHITECTURE = "GPT2LMHeadModel"
SECTION = "smalti"  # of config.json
PLAIN = {  # names that are only moved
    "ln1.weight": "ln_1.weight",
    "ln1.bias": "ln_1.bias",
    "ln2.weight": "ln_2.weight",
    "ln2.bias": "ln_2.bias",
    "attn.proj.bias": "attn.c_proj.bias",
    "mlp.0.bias": "mlp.c_fc.bias",
    "mlp.2.bias": "mlp.c_proj.bias",
}
TURNED = {  # transformers keeps these matrices as (in, out)
    "attn.proj.weight": "attn.c_proj.weight",
    "mlp.0.weight": "mlp.c_fc.weight",
    "mlp.2.weight": "mlp.c_proj.weight",
}
EXPANSION = {"mlp.0.weight": (1, 4), "mlp.2.weight": (4, 1)}  # of what is no square: in and out, in widths
JOINED = ("query", "key", "value")  # in attn.c_attn


def exported(config: PriorConfig, weights: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> ModelFolder:
    """The folder of a prior.

    Raises:
        FormatError: GPT-2 cannot do what this prior does.
    """
    if not isinstance(config, GPTConfig):
        raise FormatError(f"GPT-2 sees all that came before, and a prior of kind {config.kind} does not")
    if config.block != "gpt2":
        raise FormatError(
            f"GPT-2 has learned positions and plain keys; the block {config.block!r} turns its keys by row and column "
            "and normalizes them, which neither GPT-2 nor Llama does"
        )
    if config.annealing is not None:
        raise FormatError("GPT-2 does not see which cell comes next, and this prior is (annealing)")
    if config.bidirectional_prefix:
        raise FormatError("GPT-2 sees the past alone, and this prior's condition sees itself (bidirectional_prefix)")
    condition: ConditionConfig = from_mapping(ConditionConfig, dict(metadata["condition"]), "the condition", saved=True)
    codes = int(metadata["codes"])
    tokens = torch.cat((weights["tok_emb.weight"], condition_table(condition, weights)))
    cells = config.order.build(config.window)
    prefix = _length(condition, config.window)
    positions = torch.cat((weights["pos_emb"][0, :prefix], weights["pos_emb"][0, prefix + cells]))
    flat = {
        "transformer.wte.weight": tokens,
        "transformer.wpe.weight": positions,
        "transformer.ln_f.weight": weights["ln_f.weight"],
        "transformer.ln_f.bias": weights["ln_f.bias"],
        "lm_head.weight": F.pad(weights["head.weight"], (0, 0, 0, len(tokens) - codes)),
    }
    for layer in range(config.layers):
        flat |= _exported_layer(weights, layer)
    unsampled = {"suppress_tokens": list(range(codes, len(tokens)))}
    length = {"max_length": len(positions)}
    return ModelFolder(
        STEM,
        flat,
        _config(config, len(tokens), len(positions)) | {SECTION: _section(config, metadata, cells)},
        {"generation_config.json": json.dumps(unsampled | length, indent=2) + "\n"},
    )


def _exported_layer(weights: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    ours, theirs = f"blocks.{layer}.", f"transformer.h.{layer}."
    flat = {theirs + there: weights[ours + here] for here, there in PLAIN.items()}
    norm = weights[f"{ours}ln1.weight"]
    flat |= {
        theirs + there: _turned(weights, [ours + here], EXPANSION.get(here, (1, 1)), norm)
        for here, there in TURNED.items()
    }
    joined = [f"{ours}attn.{name}.weight" for name in JOINED]
    flat[f"{theirs}attn.c_attn.weight"] = _turned(weights, joined, (1, len(joined)), norm)
    flat[f"{theirs}attn.c_attn.bias"] = torch.cat([weights[f"{ours}attn.{name}.bias"] for name in JOINED])
    return flat


def _turned(weights: Mapping[str, Tensor], names: Sequence[str], widths: tuple[int, int], like: Tensor) -> Tensor:
    """The (in, out) form of matrices (out, in) of one shape below each other.

    What stays is allocated before what is read and dropped, which would leave holes in the heap else.

    Args:
        widths: in and out, in multiples of the length of ``like``, whose type they have.
    """
    inputs, outputs = (side * len(like) for side in widths)
    turned = torch.empty(inputs, outputs, dtype=like.dtype)
    for piece, name in zip(turned.chunk(len(names), dim=1), names, strict=True):
        matrix = weights[name]
        piece.copy_(matrix.t())
        del matrix  # before the next one is read
    return turned


def condition_table(condition: ConditionConfig, weights: Mapping[str, Tensor]) -> Tensor:
    """(rows + 1, C): the vectors of the condition's tokens, and that of no condition.

    Raises:
        FormatError: it is made of anything but tokens.
    """
    if isinstance(condition, UnconditionalConfig):
        return torch.stack((weights["condition.start"], weights["condition.absent"]))
    if isinstance(condition, ClassConfig | CodeMapConfig | CoordinatesConfig):
        return torch.cat((weights["condition.table.weight"], weights["condition.absent"][None]))
    raise FormatError(
        f"its sequences are tokens of one vocabulary, and the condition of kind {condition.kind} has none"
    )


def _rows(condition: ConditionConfig) -> int:
    if isinstance(condition, ClassConfig):
        return condition.classes
    return condition.vocab_size if isinstance(condition, CodeMapConfig | CoordinatesConfig) else 1


def _length(condition: ConditionConfig, window: tuple[int, int]) -> int:
    """P."""
    return window[0] * window[1] if isinstance(condition, CodeMapConfig | CoordinatesConfig) else 1


def _config(config: GPTConfig, tokens: int, positions: int) -> dict[str, Any]:
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "gpt2",
        "vocab_size": tokens,
        "n_positions": positions,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": None,
        "activation_function": "gelu" if config.activation == "gelu" else "gelu_new",  # the latter is GPT-2's own
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _section(config: GPTConfig, metadata: Mapping[str, Any], cells: Tensor) -> dict[str, Any]:
    said = {name: value for name, value in metadata.items() if name not in ("format", "digest")}
    codes = int(metadata["codes"])
    return said | {
        "model": to_mapping(config),
        "condition_offset": codes,
        "cells": cells.tolist(),
    }


def imported(ledger: Ledger, said: Mapping[str, Any]) -> Network:
    """The prior of a folder whose config.json says ``said``, as ``exported`` writes it.

    Raises:
        ValueError: its tensors are not those that it says.
    """
    section = said[SECTION]
    if not isinstance(section, dict):
        raise ValueError(f"{ledger.source}: the section {SECTION!r} of its config.json must be an object")
    source = f"the section {SECTION!r} of {ledger.source}"
    try:
        config: Any = from_mapping(PriorConfig, section["model"], source, saved=True)
        condition: Any = from_mapping(ConditionConfig, section["condition"], source, saved=True)
        codes = int(section["codes"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source} lacks {error}") from None
    if not isinstance(config, GPTConfig) or config.block != "gpt2" or not 0 < codes <= 2**24:
        raise ValueError(f"{source} speaks of a prior of kind {config.kind} with {codes} codes, which is no GPT-2")
    with torch.device("meta"):
        network = config.build(codes, condition)
    tokens, positions = codes + _rows(condition) + 1, len(network.places)
    expected = _config(config, tokens, positions)
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "activation_function"):
        if said.get(name) != expected[name]:
            raise ValueError(f"{ledger.source}: {name} is {said.get(name)!r}, and {source} needs {expected[name]!r}")
    weights = _tables(ledger, config, condition, codes, (tokens, positions))
    for layer in range(config.layers):
        weights |= imported_layer(ledger, layer, config.width, "transformer.")
    kept = {name: value for name, value in section.items() if name not in ("condition_offset", "cells")}
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if {name: tuple(tensor.shape) for name, tensor in weights.items()} != wanted:
        raise ValueError(f"{ledger.source} holds another network than {source} says")
    return Network(weights, kept)


def _tables(
    ledger: Ledger, config: GPTConfig, condition: ConditionConfig, codes: int, sizes: tuple[int, int]
) -> dict[str, Tensor]:
    shapes = {
        "transformer.wte.weight": (sizes[0], config.width),
        "transformer.wpe.weight": (sizes[1], config.width),
        "transformer.ln_f.weight": (config.width,),
        "transformer.ln_f.bias": (config.width,),
        "lm_head.weight": (sizes[0], config.width),
    }
    flat = ledger.fill(shapes, {name: name for name in shapes}, "prior")
    head, table = flat["lm_head.weight"], flat["transformer.wte.weight"]
    if head[codes:].any():
        raise ValueError(f"{ledger.source} would sample tokens of its condition (rows {codes} and on of lm_head)")
    prefix, cells = _length(condition, config.window), config.order.build(config.window)
    places = flat["transformer.wpe.weight"].clone()
    places[prefix + cells] = flat["transformer.wpe.weight"][prefix:]
    rows = table[codes:-1].clone()
    named = (
        {"condition.start": rows[0]} if isinstance(condition, UnconditionalConfig) else {"condition.table.weight": rows}
    )
    return named | {
        "tok_emb.weight": table[:codes].clone(),
        "condition.absent": table[-1].clone(),
        "pos_emb": places[None],
        "head.weight": head[:codes].clone(),
        "ln_f.weight": flat["transformer.ln_f.weight"],
        "ln_f.bias": flat["transformer.ln_f.bias"],
    }


def imported_layer(ledger: Ledger, layer: int, width: int, prefix: str) -> dict[str, Tensor]:
    """The tensors of one block of a GPT-2, whose names there begin with a prefix.

    Raises:
        ValueError: one is missing, or has another shape.
    """
    ours, theirs = f"blocks.{layer}.", f"{prefix}h.{layer}."
    ledger.drop(rf"{re.escape(theirs)}attn\.(bias|masked_bias)$", "masks, which are computed")
    shapes: dict[str, tuple[int, ...]] = {theirs + there: (width,) for there in PLAIN.values()}
    shapes |= {f"{theirs}attn.c_proj.weight": (width, width), f"{theirs}mlp.c_fc.weight": (width, 4 * width)}
    shapes |= {f"{theirs}mlp.c_proj.weight": (4 * width, width), f"{theirs}mlp.c_fc.bias": (4 * width,)}
    shapes |= {f"{theirs}attn.c_attn.weight": (width, 3 * width), f"{theirs}attn.c_attn.bias": (3 * width,)}
    found = ledger.fill(shapes, {name: name for name in shapes}, "prior")
    weights = {ours + here: found[theirs + there] for here, there in PLAIN.items()}
    weights |= {ours + here: found[theirs + there].t().contiguous() for here, there in TURNED.items()}
    for part in ("weight", "bias"):
        joined = found[f"{theirs}attn.c_attn.{part}"]
        whole = joined.t() if part == "weight" else joined
        for name, third in zip(JOINED, whole.chunk(3), strict=True):
            weights[f"{ours}attn.{name}.{part}"] = third.contiguous()
    return weights
