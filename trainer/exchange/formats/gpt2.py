"""Any folder of a transformers ``GPT2LMHeadModel``, as a prior without a condition over the codes of a tokenizer.

Its first K tokens are taken for the codes. Sequences begin with one token, and continue with codes in raster order.

Shapes: V tokens, K codes, N codes of a window, C channels.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....models.conditions import UnconditionalConfig
from ....models.priors.gpt import GPTConfig
from ....models.transformer.block import Activation
from ..hints import Hints
from ..networks import Network, prior_metadata
from ..sources.ledger import Ledger
from .transformers_gpt2 import imported_layer

ACTIVATIONS: Mapping[Any, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
SETTINGS = {  # of config.json with their defaults: the one value of each that can be imported
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
MOST = 2**24  # of any size


def imported(ledger: Ledger, said: Mapping[str, Any], hints: Hints) -> Network:
    """The prior of a folder whose config.json says ``said``; ``hints`` name its tokenizer.

    Raises:
        ValueError: a hint is missing, its config is of a variant that no prior here is, or its tensors are of another.
    """
    tokenizer = hints.tokenizer_metadata(ledger.source)
    config, start = _config(ledger.source, said, hints), _start(ledger.source, said, hints)
    codes, tokens = int(tokenizer["codes"]), _size(ledger.source, said, "vocab_size", 50257)
    if codes > tokens or start >= tokens:
        raise ValueError(
            f"{ledger.source} has {tokens} tokens, too few for the {codes} codes of {hints.tokenizer} and the token "
            f"{start} that begins a sequence"
        )
    prefix = "transformer." if "transformer.wte.weight" in ledger.shapes() else ""
    weights = _tables(ledger, prefix, config, (codes, tokens, start), _size(ledger.source, said, "n_positions", 1024))
    if said.get("tie_word_embeddings", True):
        ledger.drop(r"lm_head\.weight$", "the table of tokens once more, to which the head is tied")
        head = weights["tok_emb.weight"]
    else:
        head = ledger.fill({"lm_head.weight": (tokens, config.width)}, {"lm_head.weight": "lm_head.weight"}, "prior")[
            "lm_head.weight"
        ]
    weights["head.weight"] = head[:codes].clone()
    for layer in range(config.layers):
        weights |= imported_layer(ledger, layer, config.width, prefix)
    return Network(weights, prior_metadata(config, UnconditionalConfig(), tokenizer, (tokenizer["digest"], {})))


def _tables(
    ledger: Ledger, prefix: str, config: GPTConfig, numbers: tuple[int, int, int], positions: int
) -> dict[str, Tensor]:
    """Tokens, positions and the last norm; ``numbers`` are K, V and the token that begins a sequence."""
    codes, tokens, start = numbers
    shapes = {
        "wte.weight": (tokens, config.width),
        "wpe.weight": (positions, config.width),
        "ln_f.weight": (config.width,),
        "ln_f.bias": (config.width,),
    }
    flat = ledger.fill(shapes, {name: prefix + name for name in shapes}, "prior")
    wanted = 1 + config.window[0] * config.window[1]  # of which the last one, of a code that is never read, may lack
    places = flat["wpe.weight"][:wanted]
    return {
        "tok_emb.weight": flat["wte.weight"][:codes].clone(),
        "pos_emb": F.pad(places, (0, 0, 0, wanted - len(places)))[None],
        "ln_f.weight": flat["ln_f.weight"],
        "ln_f.bias": flat["ln_f.bias"],
        "condition.start": flat["wte.weight"][start].clone(),
        "condition.absent": torch.zeros(config.width),
    }


def _config(source: str, said: Mapping[str, Any], hints: Hints) -> GPTConfig:
    width, positions = _size(source, said, "n_embd", 768), _size(source, said, "n_positions", 1024)
    wanted = SETTINGS | {"n_inner": 4 * width}
    given = {name: said.get(name, value) for name, value in SETTINGS.items()}
    given["n_inner"] = 4 * width if said.get("n_inner") is None else said["n_inner"]
    for name, value in given.items():
        if value != wanted[name]:
            raise ValueError(f"{source}: {name} is {value!r}, and only {wanted[name]!r} can be imported")
    activation = said.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(
            f"{source}: activation_function is {activation!r}, and must be one of {', '.join(ACTIVATIONS)}"
        )
    side = isqrt(positions)
    if hints.window is None and side * side != positions:
        raise ValueError(
            f"{source}: {positions} positions are no square window; give --window ROWSxCOLUMNS of at most as many codes"
        )
    window = hints.window or (side, side)
    if window[0] * window[1] > positions:
        raise ValueError(
            f"a window of {window[0]}x{window[1]} codes needs more than the {positions} positions there are"
        )
    return GPTConfig(
        layers=_size(source, said, "n_layer", 12),
        heads=hints.heads or _size(source, said, "n_head", 12),
        width=width,
        window=window,
        activation=ACTIVATIONS[activation],
    )


def _start(source: str, said: Mapping[str, Any], hints: Hints) -> int:
    """The token that begins a sequence."""
    start = said.get("bos_token_id") if hints.start is None else hints.start
    if type(start) is not int or start < 0:
        raise ValueError(
            f"{source} does not say with which token a sequence begins (bos_token_id is {start!r}); give --start TOKEN"
        )
    return start


def _size(source: str, said: Mapping[str, Any], name: str, default: int) -> int:
    value = said.get(name, default)
    if type(value) is not int or not 0 < value <= MOST:
        raise ValueError(f"{source}: {name} in its config.json must be a whole number up to {MOST}, got {value!r}")
    return value
