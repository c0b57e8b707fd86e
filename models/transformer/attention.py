"""Causal self-attention over a sequence, with a preallocated cache of keys and values.

Shapes: B samples (or lanes of a cache), T positions, C = heads * D channels, L layers.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .rope import RopeTables, apply_rope
from .sequence_parallel import Exchange


class KeyValueCache:
    """Keys and values of several sequences that grow side by side, each in its own lane.

    Everything has a fixed shape, so a lane's numbers do not depend on what the other lanes hold.
    """

    def __init__(self, layers: int, lanes: int, heads: int, capacity: int, channels: int, like: Tensor) -> None:
        shape = (layers, lanes, heads, capacity, channels)
        self.keys = like.new_zeros(shape)  # (L, B, heads, T, D)
        self.values = like.new_zeros(shape)
        self.lengths = torch.zeros(lanes, dtype=torch.int64, device=like.device)  # (B,) positions held

    def fill(self, layer: int, lanes: Tensor, keys: Tensor, values: Tensor) -> None:
        """Replace what some lanes hold by (n, heads, t, D) keys and values; ``lanes`` is (n,)."""
        length = keys.shape[2]
        self.keys[layer, lanes, :, :length] = keys
        self.values[layer, lanes, :, :length] = values

    def extend(self, layer: int, lanes: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write one more position behind what the lanes hold; give everything that it may look at, itself included.

        Args:
            layer: of the keys and values.
            lanes: (n,) those that take part.
            keys: (B, heads, 1, D), of all lanes; the others' are not written.
            values: alike.

        Returns:
            Keys and values (B, heads, T, D), and the mask (B, 1, 1, T) of those to be looked at.
        """
        places = self.lengths[lanes]
        self.keys[layer, lanes, :, places] = keys[lanes, :, 0]
        self.values[layer, lanes, :, places] = values[lanes, :, 0]
        visible = torch.arange(self.keys.shape[3], device=places.device) <= self.lengths[:, None]
        return self.keys[layer], self.values[layer], rearrange(visible, "b t -> b 1 1 t")


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: channels C of the sequence.
        heads: heads, a divisor of the width.
        attention_dropout: share of attention weights dropped in training.
        residual_dropout: share of outputs dropped in training.
        bias: whether the four projections have biases.
        normalize: whether queries and keys are normalized (QK-norm, Dehghani et al. 2023).
    """

    def __init__(
        self, width: int, heads: int, attention_dropout: float, residual_dropout: float, bias: bool, normalize: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.key = nn.Linear(width, width, bias)
        self.query = nn.Linear(width, width, bias)
        self.value = nn.Linear(width, width, bias)
        self.proj = nn.Linear(width, width, bias)
        self.resid_drop = nn.Dropout(residual_dropout)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6) if normalize else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6) if normalize else nn.Identity()
        self.exchange: Exchange | None = None  # with whom the sequence is shared in ``forward``

    def project(self, x: Tensor, rope: RopeTables | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) to queries, keys and values, each (B, heads, T, D)."""
        query, key, value = (
            rearrange(layer(x), "b t (heads d) -> b heads t d", heads=self.heads)
            for layer in (self.query, self.key, self.value)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if rope is not None:
            query, key = apply_rope(query, rope), apply_rope(key, rope)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """The (B, T, C) outputs of (B, heads, T, D) queries; ``mask`` is true where a query may look."""
        return self._output(self._mixed(query, key, value, mask, causal))

    def forward(self, x: Tensor, rope: RopeTables | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), causal unless a mask says who sees whom."""
        parts = self.project(x, rope)
        if self.exchange is None:
            return self.attend(*parts, mask, causal=mask is None)
        query, key, value = (self.exchange.to_heads(part) for part in parts)
        return self._output(self.exchange.to_positions(self._mixed(query, key, value, mask, causal=mask is None)))

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=causal)

    def _output(self, mixed: Tensor) -> Tensor:
        output: Tensor = self.resid_drop(self.proj(rearrange(mixed, "b heads t d -> b t (heads d)")))
        return output
