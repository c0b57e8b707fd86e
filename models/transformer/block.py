"""The two transformer blocks: the published one (``gpt2``) and today's (``llama``).

Shapes: B samples, T positions, C channels.
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .rope import RopeTables

BlockKind = Literal["gpt2", "llama"]

Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Takes the keys and values of one more position, gives all that it may look at, and the mask of what it may not."""


class SwiGLU(nn.Module):
    """A gated feed-forward layer (Shazeer 2020, equation 6) with about the parameters of a fourfold plain one."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        hidden = -(-8 * width // 3 // 64) * 64  # two thirds of 4 * width, rounded up to a multiple of 64
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

    ``gpt2``: LayerNorm, biases, four-fold GELU in its erf form, as in the reference.
    ``llama``: RMSNorm, no biases, SwiGLU, normalized queries and keys.
    """

    def __init__(
        self, kind: BlockKind, width: int, heads: int, attention_dropout: float, residual_dropout: float
    ) -> None:
        super().__init__()
        llama = kind == "llama"
        self.attn = Attention(width, heads, attention_dropout, residual_dropout, bias=not llama, normalize=llama)
        self.ln1 = final_norm(kind, width)
        self.ln2 = final_norm(kind, width)
        self.mlp: nn.Module
        if llama:
            self.mlp = SwiGLU(width, residual_dropout)
        else:
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(residual_dropout)
            )

    def forward(self, x: Tensor, rope: RopeTables | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), causal unless a mask says who sees whom."""
        return self._feed(x + self.attn(self.ln1(x), rope, mask))

    def prefill(self, x: Tensor, rope: RopeTables | None, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs with the keys and values for a cache; of the last position alone when ``last``."""
        query, key, value = self.attn.project(self.ln1(x), rope)
        if last:
            x, query = x[:, -1:], query[:, :, -1:]
        mixed = self.attn.attend(query, key, value, mask=None, causal=not last)
        return self._feed(x + mixed), key, value

    def step(self, x: Tensor, rope: RopeTables | None, extend: Extend) -> Tensor:
        """One more position (B, 1, C) of every lane of a cache, which ``extend`` writes to it."""
        query, key, value = self.attn.project(self.ln1(x), rope)
        return self._feed(x + self.attn.attend(query, *extend(key, value)))

    def _feed(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.mlp(self.ln2(x))
        return output


def final_norm(kind: BlockKind, width: int) -> nn.Module:
    """The norm of a kind of block, used in it and once more before the head."""
    return nn.RMSNorm(width, eps=1e-6) if kind == "llama" else nn.LayerNorm(width, eps=1e-5)


def initialize(module: nn.Module) -> None:
    """minGPT's start: matrices and tables from N(0, 0.02), biases 0, norms 1; for ``nn.Module.apply``."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
