"""GPT-2 as a user would train it, to compare with: that of transformers where it is installed, else in plain torch."""

import importlib.util
from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ....models.transformer.block import initialize


def is_installed() -> bool:
    """Whether transformers is there."""
    return importlib.util.find_spec("transformers") is not None


def build(layers: int, heads: int, width: int, codes: int, length: int) -> nn.Module:
    """A GPT-2 without dropout, called as ``network(tokens, labels=tokens).loss`` with (B, T) tokens."""
    if not is_installed():
        return GPT2(layers, heads, width, codes, length)
    from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore[import-not-found,import-untyped,unused-ignore]

    shape = {"n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": length}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # as in the prior beside it
    network: nn.Module = GPT2LMHeadModel(GPT2Config(vocab_size=codes, use_cache=False, **dropout, **shape))
    return network


class Loss(NamedTuple):
    """What a call gives."""

    loss: Tensor


class GPT2(nn.Module):
    """Radford et al. 2019, with one matrix for queries, keys and values, and torch's attention."""

    def __init__(self, layers: int, heads: int, width: int, codes: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(codes, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(GPT2Block(heads, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.apply(initialize)

    def forward(self, tokens: Tensor, labels: Tensor) -> Loss:
        """The mean loss of every (B, T) token but the first, given those before it."""
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)[:, :-1].float()  # GPT-2 ties both tables
        return Loss(F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()))


class GPT2Block(nn.Module):
    """Attention and feed-forward layer, each behind a norm and beside a skip."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joined, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        joined = rearrange(self.joined(self.first(x)), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        query, key, value = joined
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(rearrange(mixed, "b h t d -> b t (h d)"))
        output: Tensor = x + self.down(F.gelu(self.up(self.second(x)), approximate="tanh"))
        return output
