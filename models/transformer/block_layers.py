"""The layers of an encoder and a decoder whose sequences are cut into blocks: BART's (Lewis et al. 2020).

Which block looks at which is not theirs to know: they are given functions that attend.

Shapes: B samples, N blocks, s places of a block, C channels, D channels of a head.
"""

from collections.abc import Callable
from typing import Literal

from einops import rearrange
from torch import Tensor, nn

NormPlace = Literal["post", "pre"]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From queries (B, heads, N, q, D) and keys and values (B, heads, N, k, D) to (B, heads, N, q, D)."""


class BlockHeads(nn.Module):
    """The four projections of multi-head attention, with biases."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def queries(self, x: Tensor) -> Tensor:
        """(B, N, s, C) to (B, heads, N, s, D)."""
        return self._split(self.query(x))

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, s, C) to two (B, heads, N, s, D)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def output(self, mixed: Tensor) -> Tensor:
        """(B, heads, N, s, D) to (B, N, s, C)."""
        output: Tensor = self.drop(self.proj(rearrange(mixed, "b heads n s d -> b n s (heads d)")))
        return output

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n s (heads d) -> b heads n s d", heads=self.heads)


class Sublayer(nn.Module):
    """A part of a layer beside its skip: the norm behind the sum (``post``, as published) or before the part."""

    def __init__(self, width: int, place: NormPlace) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.before = place == "pre"

    def forward(self, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, N, s, C) to the same shape."""
        output: Tensor = x + part(self.norm(x)) if self.before else self.norm(x + part(x))
        return output


def feed_forward(width: int, dropout: float) -> nn.Sequential:
    """Four-fold, GELU."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))


class EncoderLayer(nn.Module):
    """Attention within a sequence, and a feed-forward layer."""

    def __init__(self, width: int, heads: int, dropout: float, place: NormPlace) -> None:
        super().__init__()
        self.attn, self.mlp = BlockHeads(width, heads, dropout), feed_forward(width, dropout)
        self.attn_norm, self.mlp_norm = Sublayer(width, place), Sublayer(width, place)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """(B, N, s, C) to the same shape."""

        def attended(h: Tensor) -> Tensor:
            return self.attn.output(attend(self.attn.queries(h), *self.attn.keys_and_values(h)))

        output: Tensor = self.mlp_norm(self.attn_norm(x, attended), self.mlp)
        return output


class DecoderLayer(nn.Module):
    """Attention within a sequence, attention to the encoder's, and a feed-forward layer."""

    def __init__(self, width: int, heads: int, dropout: float, place: NormPlace) -> None:
        super().__init__()
        self.attn, self.cross = BlockHeads(width, heads, dropout), BlockHeads(width, heads, dropout)
        self.mlp = feed_forward(width, dropout)
        self.attn_norm, self.cross_norm, self.mlp_norm = (Sublayer(width, place) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor, attend: Attend, look: Attend) -> Tensor:
        """(B, N, s, C) to the same shape.

        Args:
            memory: (B, N, k, C) the encoder's output.
            attend: within the sequence.
            look: at the encoder's.
        """
        return self.run(x, attend, lambda query: look(query, *self.cross.keys_and_values(memory)))

    def run(self, x: Tensor, attend: Attend, look: Callable[[Tensor], Tensor]) -> Tensor:
        """The same, where ``look`` has the keys and values of the encoder at hand."""

        def attended(h: Tensor) -> Tensor:
            return self.attn.output(attend(self.attn.queries(h), *self.attn.keys_and_values(h)))

        def looked(h: Tensor) -> Tensor:
            return self.cross.output(look(self.cross.queries(h)))

        output: Tensor = self.mlp_norm(self.cross_norm(self.attn_norm(x, attended), looked), self.mlp)
        return output


class PositionGenerator(nn.Module):
    """Where in its block a place lies, from a depthwise convolution that is padded with zeros inside each block.

    Chu et al. 2021 (CPVT), section 3.2. All weights but the middle one start at 0, so that a size of block that shows
    taps which another did not adds no noise.
    """

    def __init__(self, width: int, side: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, side, padding=side // 2, groups=width)
        nn.init.zeros_(self.conv.weight)
        nn.init.normal_(self.conv.weight[:, :, side // 2, side // 2], std=0.02)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, height: int) -> Tensor:
        """(B, N, s, C) of blocks of so many rows to what is to be added, of the same shape."""
        images = rearrange(x, "b n (h w) c -> (b n) c h w", h=height)
        added: Tensor = rearrange(self.conv(images), "(b n) c h w -> b n (h w) c", b=len(x))
        return added
