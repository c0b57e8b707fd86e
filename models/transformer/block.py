"""The transformer blocks: the published one (``gpt2``), today's (``llama``) and LlamaGen's (``llamagen``).

Shapes: B samples, T positions, C channels.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Attention, JoinedProjection
from .rms_norm import EPSILON, norm_limit, root_scale, unscaled_norm
from .rope import RopeTables

BlockKind = Literal["gpt2", "llama", "llamagen"]
Activation = Literal["gelu", "gelu_tanh"]

MULTIPLES: dict[BlockKind, int] = {"llama": 64, "llamagen": 256}
"""Of which the width of a gated feed-forward layer is one."""

Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Takes the (n, heads, D) keys and values of one more position; gives all that it may look at, (n, heads, T, D), and
what is added to the attention's logits, (n, 1, 1, T): minus infinity where it may not look."""


class StepWeights(NamedTuple):
    """What a block multiplies by when it samples, prepared once for many steps."""

    projection: JoinedProjection
    gate_and_up: Tensor | None  # (2 hidden, C) of a gated feed-forward layer
    limit: Tensor | None  # () of RMSNorm, whose scales the two matrices hold; None for LayerNorm


class SwiGLU(nn.Module):
    """A gated feed-forward layer (Shazeer 2020, equation 6) with about the parameters of a fourfold plain one."""

    def __init__(self, width: int, dropout: float, multiple: int) -> None:
        super().__init__()
        hidden = -(-8 * width // 3 // multiple) * multiple  # two thirds of 4 * width, rounded up
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        output: Tensor = self.drop(self.down(F.silu(self.gate(x)) * self.up(x)))
        return output


class Block(nn.Module):
    """Attention and feed-forward layer, each behind its norm and beside a skip.

    ``gpt2``: LayerNorm, biases, four-fold GELU, in its erf form as in the reference or in GPT-2's own (``gelu_tanh``).
    ``llama``: RMSNorm, no biases, SwiGLU, normalized queries and keys.
    ``llamagen``: as ``llama``, but queries and keys are not normalized (Sun et al. 2024).
    """

    compiled_alone: ClassVar[bool] = True

    def __init__(
        self,
        kind: BlockKind,
        width: int,
        heads: int,
        attention_dropout: float,
        residual_dropout: float,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        gpt2 = kind == "gpt2"
        self.attn = Attention(width, heads, attention_dropout, residual_dropout, bias=gpt2, normalize=kind == "llama")
        self.ln1 = final_norm(kind, width)
        self.ln2 = final_norm(kind, width)
        self.mlp: nn.Module
        if gpt2:
            gelu = nn.GELU("tanh" if activation == "gelu_tanh" else "none")
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), gelu, nn.Linear(4 * width, width), nn.Dropout(residual_dropout)
            )
        else:
            self.mlp = SwiGLU(width, residual_dropout, MULTIPLES[kind])

    def forward(self, x: Tensor, rope: RopeTables | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), causal unless a mask says who sees whom."""
        return self._feed(x + self.attn(self.ln1(x), rope, mask))

    def step_weights(self) -> StepWeights:
        """Prepared once for many steps; they do not follow later training."""
        projection = self.attn.joined()
        if not (isinstance(self.ln1, nn.RMSNorm) and isinstance(self.ln2, nn.RMSNorm) and isinstance(self.mlp, SwiGLU)):
            return StepWeights(projection, None, None)
        both = torch.cat((self.mlp.gate.weight, self.mlp.up.weight))
        first, second = (
            (weight * root_scale(norm)).to(weight.dtype)
            for weight, norm in ((projection.weight, self.ln1), (both, self.ln2))
        )
        return StepWeights(projection._replace(weight=first), second, norm_limit(self.ln1))

    def prefill(
        self, x: Tensor, weights: StepWeights, rope: RopeTables | None, last: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs with the keys and values for a cache.

        Args:
            x: (n, T, C).
            weights: from ``step_weights``.
            rope: the tables of ``paired`` at (T, 1, 1, D).
            last: (n, 1, C) numbers of the positions whose outputs alone are wanted, or None for all.
            mask: with ``last``, what is added to the logits of attention, (n, 1, 1, T); without it, (T, T) or
                (n, 1, T, T) bool, true where a position may look, or None for its past.

        Returns:
            (n, T, C) outputs, or (n, 1, C) with ``last``; keys and values (n, T, heads, D).
        """
        query, key, value = self.attn.project_joined(self._normed(x, weights, 0), weights.projection, rope)
        if last is not None:
            x = x.gather(1, last)
            query = query.flatten(2).gather(1, last).view(len(x), 1, *query.shape[2:])
        query_first, key_first, value_first = (part.transpose(1, 2) for part in (query, key, value))
        mixed = self.attn.attend(query_first, key_first, value_first, mask, causal=mask is None)
        return self._feed_step(x + mixed, weights), key, value

    def step(self, x: Tensor, weights: StepWeights, rope: RopeTables | None, extend: Extend) -> Tensor:
        """One more position (n, C) of every lane of a cache, which ``extend`` writes to it; ``rope`` (n, 1, 1, D)."""
        query, key, value = self.attn.project_joined(self._normed(x, weights, 0), weights.projection, rope)
        keys, values, mask = extend(key, value)
        mixed = F.scaled_dot_product_attention(rearrange(query, "n heads d -> n heads 1 d"), keys, values, mask)
        return self._feed_step(_added(x, self.attn.proj, rearrange(mixed, "n heads 1 d -> n (heads d)")), weights)

    def _normed(self, x: Tensor, weights: StepWeights, number: int) -> Tensor:
        if weights.limit is not None:
            return unscaled_norm(x, weights.limit).to(x.dtype)
        output: Tensor = (self.ln1, self.ln2)[number](x)
        return output

    def _feed_step(self, x: Tensor, weights: StepWeights) -> Tensor:
        hidden = self._normed(x, weights, 1)
        if isinstance(self.mlp, SwiGLU) and weights.gate_and_up is not None:
            gate, up = F.linear(hidden, weights.gate_and_up).chunk(2, dim=-1)
            return _added(x, self.mlp.down, F.silu(gate) * up)
        output: Tensor = x + self.mlp(hidden)
        return output

    def _feed(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.mlp(self.ln2(x))
        return output


def _added(x: Tensor, layer: nn.Linear, hidden: Tensor) -> Tensor:
    """(..., C) plus a layer's output; (n, C) in one kernel where the layer has no bias."""
    bias: Tensor | None = layer.bias
    if bias is None and x.dim() == 2:
        return torch.addmm(x, hidden, layer.weight.t())
    output: Tensor = x + layer(hidden)
    return output


def final_norm(kind: BlockKind, width: int) -> nn.Module:
    """The norm of a kind of block, used in it and once more before the head."""
    if kind == "gpt2":
        return nn.LayerNorm(width, eps=1e-5)
    return nn.RMSNorm(width, eps=EPSILON if kind == "llama" else 1e-5)


def initialize(module: nn.Module) -> None:
    """minGPT's start: matrices and tables from N(0, 0.02), biases 0, norms 1; for ``nn.Module.apply``."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
