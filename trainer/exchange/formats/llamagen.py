"""LlamaGen's networks (Sun et al. 2024): its tokenizers, and its priors over a class or a text.

Shapes: V tokens, L layers, C = heads * D channels, H hidden channels of a feed-forward layer.
"""

import re
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....models.conditions import CaptionConfig, ClassConfig
from ....models.priors.gpt import GPTConfig
from ..hints import Hints
from ..networks import Network, prior_metadata, vqgan_metadata
from ..sources.ledger import Ledger, numbered
from ..vqgan_shapes import network_shapes, vqgan_config

VQGAN_MARK = "encoder.conv_blocks.0.res.0.conv1.weight"
PRIOR_MARK = "layers.0.attention.wqkv.weight"
DROPOUT = 0.1  # of tokens, residuals and conditions in their training
HEADS = {
    (12, 768): 12,
    (24, 1024): 16,
    (36, 1280): 20,
    (48, 1536): 24,
    (48, 2560): 40,
    (22, 2048): 32,
    (24, 3200): 32,
    (32, 4096): 32,
}
"""Of the released priors, by layers and width."""

PARTS = {
    "ln1.weight": "attention_norm.weight",
    "ln2.weight": "ffn_norm.weight",
    "attn.proj.weight": "attention.wo.weight",
    "mlp.gate.weight": "feed_forward.w1.weight",
    "mlp.up.weight": "feed_forward.w3.weight",
    "mlp.down.weight": "feed_forward.w2.weight",
}


def vqgan(ledger: Ledger) -> Network:
    """LlamaGen's tokenizer: the published network under other names, with codes that are compared by their angle."""
    found = ledger.shapes()
    levels = len({name.split(".")[2] for name in found if name.startswith("encoder.conv_blocks.")})
    names = {_published(name, levels): name for name in found}
    ledger.drop(r"quantize\.codebook_used$", "a record of which codes were in use")
    shapes = {name: found[theirs] for name, theirs in names.items() if theirs not in ledger.dropped}
    config = vqgan_config(shapes, ledger.source, unit_codes=True)
    wanted = network_shapes(config)
    weights = ledger.fill(wanted, {name: names.get(name, name) for name in wanted}, "autoencoder")
    weights["quantize.idle"] = torch.zeros(config.codebook_size, dtype=torch.int64)
    return Network(weights, vqgan_metadata(config))


def _published(name: str, levels: int) -> str:
    """The published name of a tensor of LlamaGen's, whose decoder counts its levels from the lowest resolution."""
    name = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", name)
    name = re.sub(r"^decoder\.conv_blocks\.(\d+)", lambda level: f"decoder.up.{levels - 1 - int(level[1])}", name)
    name = re.sub(r"^(\w+\.(?:down|up)\.-?\d+)\.res\.", r"\1.block.", name)
    return re.sub(r"\.mid\.([012])\.", lambda part: f".mid.{('block_1', 'attn_1', 'block_2')[int(part[1])]}.", name)


def prior(ledger: Ledger, hints: Hints) -> Network:
    """A prior; ``hints`` say its window, its tokenizer, and its heads where it is of no released size.

    Raises:
        ValueError: a hint is missing, or the tensors are of another network.
    """
    tokenizer = hints.tokenizer_metadata(ledger.source)
    if hints.window is None:
        raise ValueError(
            f"{ledger.source} does not say how many codes an image has; give --window ROWSxCOLUMNS, which is 16x16 for "
            "256 pixels and 24x24 for 384 at factor 16"
        )
    shapes = ledger.shapes()
    tokens = shapes.get("tok_embeddings.weight", ())
    if len(tokens) != 2:
        raise ValueError(f"{ledger.source} has no table of tokens (tok_embeddings.weight)")
    config = _prior_config(ledger, hints, tokens[1])
    condition, tables = _condition(ledger, tokens[1])
    with torch.device("meta"):
        network = config.build(tokenizer["codes"], condition)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    weights = ledger.fill(*_moved(wanted, config.layers), "prior")
    for layer in range(config.layers):
        weights |= _projections(ledger, layer, config)
    weights |= tables
    ledger.drop(r"freqs_cis$", "rotary tables, which are computed")
    return Network(weights, prior_metadata(config, condition, tokenizer, (tokenizer["digest"], {})))


def _condition(ledger: Ledger, width: int) -> tuple[CaptionConfig | ClassConfig, dict[str, Tensor]]:
    """What the prior is conditioned on, and the tensors of that: a text, or a class with a last row for none."""
    shapes, text, table = ledger.shapes(), "cls_embedding.uncond_embedding", "cls_embedding.embedding_table.weight"
    if len(shapes.get(text, ())) == 2:
        length, channels = shapes[text]
        wanted = {
            "condition.absent": (length, channels),
            "condition.project.0.weight": (width, channels),
            "condition.project.2.weight": (width, width),
        }
        names = (text, "cls_embedding.cap_proj.fc1.weight", "cls_embedding.cap_proj.fc2.weight")
        tensors = ledger.fill(wanted, dict(zip(wanted, names, strict=True)), "prior")
        return CaptionConfig(tokens=length, channels=channels), tensors
    if len(shapes.get(table, ())) != 2 or shapes[table][0] < 2:
        raise ValueError(f"{ledger.source} has neither a table of classes ({table}) nor a text's ({text})")
    rows = ledger.fill({table: (shapes[table][0], width)}, {table: table}, "prior")[table]
    tensors = {"condition.table.weight": rows[:-1].clone(), "condition.absent": rows[-1].clone()}
    return ClassConfig(classes=len(rows) - 1), tensors


def _prior_config(ledger: Ledger, hints: Hints, width: int) -> GPTConfig:
    layers = numbered(ledger.shapes(), r"layers\.(\d+)\.")
    heads = hints.heads or HEADS.get((layers, width))
    if heads is None:
        raise ValueError(
            f"{ledger.source} is of no released size ({layers} layers of {width} channels), so give its --heads"
        )
    return GPTConfig(
        layers=layers,
        heads=heads,
        width=width,
        window=hints.window or (1, 1),
        block="llamagen",
        embedding_dropout=DROPOUT,
        residual_dropout=DROPOUT,
        condition_dropout=DROPOUT,
    )


def _moved(wanted: dict[str, Any], layers: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The shapes of what has another name there and nothing else, and these names."""
    names = {"tok_emb.weight": "tok_embeddings.weight", "ln_f.weight": "norm.weight", "head.weight": "output.weight"}
    for layer in range(layers):
        names |= {f"blocks.{layer}.{ours}": f"layers.{layer}.{theirs}" for ours, theirs in PARTS.items()}
    return {name: wanted[name] for name in names}, names


def _projections(ledger: Ledger, layer: int, config: GPTConfig) -> dict[str, Tensor]:
    """Queries, keys and values, there in one matrix, with rotary pairs side by side instead of half a head apart."""
    name, width = f"layers.{layer}.attention.wqkv.weight", config.width
    joined = ledger.fill({name: (3 * width, width)}, {name: name}, "prior")[name]
    query, key, value = joined.chunk(3)
    query, key = (
        rearrange(part, "(heads pair two) c -> (heads two pair) c", heads=config.heads, two=2).contiguous()
        for part in (query, key)
    )
    parts = {"query": query, "key": key, "value": value.clone()}
    return {f"blocks.{layer}.attn.{part}.weight": tensor for part, tensor in parts.items()}
