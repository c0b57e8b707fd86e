"""PixelSNAIL over grids of codes: gated causal convolutions with causal attention between them. Chen et al. 2018.

The baseline that Esser et al. 2021 compare their transformer with (section 4.1, table 1). As there, codes take the
place of colors; the nonlinearity is a plain ELU, and queries, keys and values are projections without blocks of their
own. Shapes: B samples, (h, w) the window, N = h * w codes, K codes, C channels, P tokens of the condition, L lanes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..bounds import Count, Decay, Share, Width, check_ranges
from ..conditions import Condition, ConditionConfig, Fields
from ..conditions.base import window_cells
from ..layers.recompute import run_layer
from .base import Prediction, Prior
from .decoders.snail_cache import SNAILCache
from .decoders.window_decoder import WindowDecoder
from .decoding import Decoder, DecodingRequest
from .gpt import CodeHead
from .standing_tokens import StandingTokens

PLACE = 2  # channels of a cell's place in the window: its row and its column


@dataclass(frozen=True)
class PixelSNAILConfig:
    """A PixelSNAIL in raster order; the defaults are about as large as a GPT of 24 x 1024."""

    kind: Literal["pixelsnail"] = "pixelsnail"
    width: Width = 352  # C, channels of the convolutions
    blocks: Width = 12  # each of some residual blocks and one attention
    residual_blocks: Width = 4  # of a block
    reach: Width = 2  # rows above, and columns to either side, that a convolution sees
    heads: Width = 8
    window: tuple[Width, Width] = (16, 16)  # rows and columns of the crops of codes it is trained on
    dropout: Decay = 0.0  # inside residual blocks
    token_keep_prob: Share = 1.0  # the chance that an input code is kept in training, else it is a random one
    condition_dropout: Decay = 0.0  # the chance that a sample loses its condition; guidance needs some, 0.1 is usual
    label_smoothing: Decay = 0.0
    activation_checkpointing: bool = False
    loss_chunk: Count = 1024  # positions whose logits are alive at a time

    def __post_init__(self) -> None:
        problems = []
        if self.heads >= 1 and self.width % self.heads:
            problems.append(f"width (={self.width}) must be a multiple of heads (={self.heads})")
        check_ranges(self, *problems)

    def build(self, codes: int, condition: ConditionConfig) -> "PixelSNAIL":
        """A fresh prior over ``codes`` codes."""
        return PixelSNAIL(self, codes, condition.build(self.width, self.window))


class CausalConv2d(nn.Conv2d):
    """A convolution that sees rows above and, in its own row, what lies to the left; itself only if it may.

    Args:
        channels, out_channels: of input and output.
        reach: rows above and columns to either side.
        itself: whether a cell's own input counts.
    """

    seen: Tensor  # (reach + 1, 2 * reach + 1) 1 where the kernel looks

    def __init__(self, channels: int, out_channels: int, reach: int, itself: bool) -> None:
        super().__init__(channels, out_channels, (reach + 1, 2 * reach + 1))
        self.reach = reach
        seen = torch.ones(reach + 1, 2 * reach + 1, device="cpu")
        seen[reach, reach + itself :] = 0
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        padded = F.pad(x, (self.reach, self.reach, self.reach, 0))
        return F.conv2d(padded, self.weight * self.seen.to(self.weight.dtype), self.bias)

    def taps(self) -> Tensor:
        """(taps * C, C') the weights of the cells that it sees, row by row: what a step of sampling multiplies by."""
        weight = self.weight[:, :, self.seen > 0]
        return rearrange(weight, "out c taps -> (taps c) out").contiguous()


class GatedResidual(nn.Module):
    """A residual block whose second convolution is halved by a gate."""

    def __init__(self, width: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.first = CausalConv2d(width, width, reach, itself=True)
        self.local = nn.Conv2d(width, width, 1)
        self.drop = nn.Dropout(dropout)
        self.second = CausalConv2d(width, 2 * width, reach, itself=True)

    def forward(self, x: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) features, and what the condition says there, to features and the inputs of both convolutions."""
        entered = F.elu(x)
        hidden = F.elu(self.first(entered) + self.local(local))
        gated: Tensor = F.glu(self.second(self.drop(hidden)), dim=1)
        return x + gated, entered, hidden

    def step(self, x: Tensor, local: Tensor, layer: int, cache: SNAILCache) -> Tensor:
        """(L, C) features of one cell in every lane; ``layer`` is the number of the first convolution in the cache."""
        hidden = F.elu(_read(self.first, layer, F.elu(x), cache) + _pointwise(self.local, local))
        return x + F.glu(_read(self.second, layer + 1, hidden, cache), dim=1)


class Trace(NamedTuple):
    """What a block computes, with all that later cells read of it."""

    output: Tensor  # (B, C, h, w)
    inputs: list[Tensor]  # (B, C, h, w) of every convolution that sees other cells
    features: Tensor  # (B, C, h, w) before the attention
    key: Tensor  # (B, heads, N, D)
    value: Tensor


class SNAILBlock(nn.Module):
    """Residual blocks, then attention to all cells before each: keys know their cell's own code too."""

    compiled_alone: ClassVar[bool] = True

    def __init__(self, config: PixelSNAILConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.residuals = nn.ModuleList(
            GatedResidual(width, config.reach, config.dropout) for _ in range(config.residual_blocks)
        )
        self.query = nn.Conv2d(width + PLACE, width, 1)
        self.key_value = nn.Conv2d(2 * width + PLACE, 2 * width, 1)
        self.attended = nn.Conv2d(width, width, 1)
        self.out = GatedResidual(width, 0, config.dropout)

    def forward(self, x: Tensor, read: Tensor, local: Tensor, place: Tensor) -> Tensor:
        """(B, C, h, w) features, which know the codes before each cell.

        Args:
            read: (B, C, h, w) the code of each cell itself, which those behind it may know.
            local: (B, C, h, w) what the condition says at each cell.
            place: (B, 2, h, w) where each cell is.
        """
        return self.trace(x, read, local, place).output

    def trace(self, x: Tensor, read: Tensor, local: Tensor, place: Tensor) -> Trace:
        """As ``forward``, with what a cache takes."""
        height, inputs = x.shape[2], []
        for residual in self.residuals:
            x, *entered = residual(x, local)
            inputs += entered
        query = self.query(torch.cat((x, place), dim=1))
        query = rearrange(query, "b (d c) h w -> b d (h w) c", d=self.heads)
        both = self.key_value(torch.cat((x, read, place), dim=1))
        both = rearrange(both, "b (two d c) h w -> two b d (h w) c", two=2, d=self.heads)
        # A key knows its own code, so it is seen from the next cell on; the first cell sees a zero alone.
        key, value = F.pad(both[:, :, :, :-1], (0, 0, 1, 0))
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = self.attended(rearrange(found, "b d (h w) c -> b (d c) h w", h=height))
        output, _, _ = self.out(x + attended, local)
        return Trace(output, inputs, x, both[0], both[1])

    def step(self, x: Tensor, read: Tensor, local: Tensor, number: int, cache: SNAILCache) -> Tensor:
        """One more cell of every lane.

        Args:
            x: (L, C) its features.
            read: (L, C) the code of the cell before it.
            local: (L, C) what the condition says at it.
            number: of this block.
            cache: opened at the cell.
        """
        cells = cache.cells
        both = _pointwise(self.key_value, torch.cat((cache.features[number, : cache.lanes], read, cells.before), dim=1))
        key, value = rearrange(both, "l (two d c) -> two l d c", two=2, d=self.heads)
        keys, values = cache.extend(number, key, value)
        layer = 1 + number * 2 * len(self.residuals)
        for offset, residual in enumerate(self._residuals()):
            x = residual.step(x, local, layer + 2 * offset, cache)
        cache.note(number, x)
        query = rearrange(
            _pointwise(self.query, torch.cat((x, cells.place), dim=1)), "l (d c) -> l d 1 c", d=self.heads
        )
        found = F.scaled_dot_product_attention(query, keys, values, cells.mask)
        x = x + _pointwise(self.attended, rearrange(found, "l d 1 c -> l (d c)"))
        hidden = F.elu(_pointwise(self.out.first, F.elu(x)) + _pointwise(self.out.local, local))
        return x + F.glu(_pointwise(self.out.second, hidden), dim=1)

    def _residuals(self) -> list[GatedResidual]:
        return [residual for residual in self.residuals if isinstance(residual, GatedResidual)]


class PixelSNAIL(Prior):
    """The prior. Its condition is added in every residual block where it stands."""

    cells: Tensor  # (N,) the order of prediction: the raster's
    place: Tensor  # (1, 2, h, w)

    def __init__(self, config: PixelSNAILConfig, codes: int, condition: Condition) -> None:
        super().__init__(codes, config.window, condition, config.token_keep_prob, config.condition_dropout)
        if condition.hides_tokens:
            raise ValueError("a prior of kind pixelsnail cannot hide tokens of its condition; use a prior of kind gpt")
        self.config = config
        self.tok_emb = nn.Embedding(codes, config.width)
        self.enter = CausalConv2d(config.width, config.width, config.reach, itself=False)
        self.blocks = nn.ModuleList(SNAILBlock(config) for _ in range(config.blocks))
        self.head = CodeHead(config.width, codes, bias=False)
        self.standing = StandingTokens(condition)
        rows, columns = config.window
        place = window_cells(config.window) / torch.tensor([rows, columns], device="cpu") - 0.5
        place = rearrange(place, "(h w) two -> 1 two h w", h=rows)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("cells", torch.arange(rows * columns, device="cpu"), persistent=False)
        nn.init.normal_(self.tok_emb.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(
        self,
        indices: Tensor,
        fields: Fields,
        targets: Tensor | None = None,
        dropped: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Prediction:
        """Predict every code from those before it in raster order; see ``GPT.forward``. There is no other order."""
        self.check_window(indices)
        self.check_raster(self.config.kind, order)
        x, read, local, place = self._entered(indices, fields, dropped)
        for block in self.blocks:
            x = run_layer(block, x, read, local, place, recompute=self.config.activation_checkpointing)
        features = rearrange(F.elu(x), "b c h w -> b h w c")
        return self.head.predict(features, targets, self.config.label_smoothing, self.config.loss_chunk)

    def rows_at_once(self, columns: int) -> int:
        """A row waits for the window of the row above; see ``Prior``."""
        return -(-columns // self.window[1])

    def decoder(self, request: DecodingRequest) -> Decoder:
        """What samples grids as large as the window or larger, code by code."""
        return WindowDecoder(self, request)

    def step_weights(self) -> list[Tensor]:
        """What every step multiplies by, convolution by convolution; prepared once for all caches."""
        seeing = [layer for block in self._blocks() for residual in block.residuals for layer in residual.children()]
        layers = [self.enter, *(layer for layer in seeing if isinstance(layer, CausalConv2d))]
        return [layer.taps() for layer in layers]

    def cache(self, lanes: int, weights: Sequence[Tensor]) -> SNAILCache:
        """An empty cache for ``lanes`` windows; the weights are those of ``step_weights``."""
        config = self.config
        return SNAILCache(
            weights, lanes, self.window, config.reach, config.blocks, config.heads, self.place, self.head.weight
        )

    def prefill(
        self, codes: Tensor, held: Tensor, fields: Fields, dropped: Tensor, cache: SNAILCache, lanes: Tensor
    ) -> Tensor:
        """Read the first codes of some windows and predict the next; see ``GPT.prefill``."""
        whole = F.pad(codes, (0, len(self.cells) - codes.shape[1]))  # what lies behind the last code leaves no trace
        indices = rearrange(whole, "n (h w) -> n h w", h=self.window[0])
        x, read, local, place = self._entered(indices, fields, dropped)
        traces = []
        for block in self._blocks():
            traces.append(block.trace(x, read, local, place))
            x = traces[-1].output
        cache.fill(lanes, held, local, [read, *(entered for trace in traces for entered in trace.inputs)])
        for number, trace in enumerate(traces):
            cache.fill_block(number, lanes, held, trace.features, trace.key, trace.value)
        last = rearrange(x, "n c h w -> n (h w) c")[torch.arange(len(x), device=x.device), held]
        logits: Tensor = self.head(F.elu(last))
        return logits

    def step(self, codes: Tensor, cache: SNAILCache, live: Tensor) -> Tensor:
        """Read one more code of every lane and predict the next; see ``GPT.step``."""
        cache.open(live)
        read = self.tok_emb(codes)
        local = cache.local_here()
        x = self.enter_step(read, cache)
        for number, block in enumerate(self._blocks()):
            x = block.step(x, read, local, number, cache)
        cache.lengths[:-1] += live
        logits: Tensor = self.head(F.elu(x))
        return logits

    def enter_step(self, read: Tensor, cache: SNAILCache) -> Tensor:
        """(L, C) what the next cell's first convolution makes of the codes before it."""
        cache.write(0, read, before=True)
        return F.linear(cache.patches(0, itself=False), cache.weights[0].t(), self.enter.bias)

    def _entered(
        self, indices: Tensor, fields: Fields, dropped: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the blocks read: features, codes, condition and places, each (B, channels, h, w)."""
        said = self.standing(self.condition(fields, len(indices), dropped))
        local = rearrange(said, "b h w c -> b c h w")
        read = rearrange(self.tok_emb(indices), "b h w c -> b c h w")
        x = self.enter(read)
        return x, read, local, self.place.to(x.dtype).expand(len(indices), -1, -1, -1)

    def _blocks(self) -> list[SNAILBlock]:
        return [block for block in self.blocks if isinstance(block, SNAILBlock)]


def _read(layer: CausalConv2d, number: int, entered: Tensor, cache: SNAILCache) -> Tensor:
    """(L, C') a convolution at the cache's cell, whose own (L, C) input is written first."""
    cache.write(number, entered)
    return F.linear(cache.patches(number, itself=True), cache.weights[number].t(), layer.bias)


def _pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """(L, C) to (L, C') by a convolution of one cell."""
    return F.linear(x, layer.weight.flatten(1), layer.bias)
