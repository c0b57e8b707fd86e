"""Causal self-attention over a sequence.

Shapes: B samples (or lanes of a cache), T positions, C = heads * D channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .rms_norm import EPSILON, norm_limit, root_scale, unscaled_norm
from .rope import RopeTables, apply_rope, rotate_paired
from .sequence_parallel import Exchange


class JoinedProjection(NamedTuple):
    """One matrix for queries, keys and values, and the scales of their norms: what sampling multiplies by."""

    weight: Tensor  # (3 C, C)
    bias: Tensor | None  # (3 C,)
    scales: Tensor | None  # (2, 1, D), see ``root_scale``; None where queries and keys are not normalized
    limit: Tensor | None  # () see ``norm_limit``


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
        self.query_norm = nn.RMSNorm(width // heads, eps=EPSILON) if normalize else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads, eps=EPSILON) if normalize else nn.Identity()
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

    def joined(self) -> JoinedProjection:
        """A copy of the projections as one; it does not follow later training."""
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight for layer in layers])
        bias = None if self.query.bias is None else torch.cat([layer.bias for layer in layers])
        scales = limit = None
        if isinstance(self.query_norm, nn.RMSNorm) and isinstance(self.key_norm, nn.RMSNorm):
            scales = rearrange([root_scale(self.query_norm), root_scale(self.key_norm)], "two d -> two 1 d")
            limit = norm_limit(self.key_norm)
        return JoinedProjection(weight, bias, scales, limit)

    def project_joined(
        self, x: Tensor, joined: JoinedProjection, rope: RopeTables | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``project``, in few kernels: (..., C) to queries, keys and values (..., heads, D).

        ``rope`` holds for all heads: (..., 1, 1, D).
        """
        parts = F.linear(x, joined.weight, joined.bias)
        parts = rearrange(parts, "... (three heads d) -> ... three heads d", three=3, heads=self.heads)
        both, value = parts[..., :2, :, :], parts[..., 2, :, :]
        if joined.scales is not None and joined.limit is not None:
            both = (unscaled_norm(both, joined.limit) * joined.scales).to(x.dtype)
        if rope is not None:
            both = rotate_paired(both, rope)
        return both[..., 0, :, :], both[..., 1, :, :], value

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


def share_heads(network: nn.Module, exchange: Exchange) -> None:
    """Let every attention of a network exchange positions for heads.

    Raises:
        ValueError: the heads cannot be dealt out.
    """
    for module in network.modules():
        if isinstance(module, Attention):
            if module.heads % exchange.ranks:
                raise ValueError(
                    f"{module.heads} heads cannot be dealt to {exchange.ranks} ranks; "
                    "share a sequence among a divisor of the heads"
                )
            module.exchange = exchange
