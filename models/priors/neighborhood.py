"""A prior made for large images: every cell looks at a neighborhood of its past, with relative positions.

Trained on crops, it means the same anywhere in an image, so keys and values stay valid when sampling moves on, and a
image of any size costs one position's forward a code.

A row of w codes has w + 1 positions: position (i, j) reads the code to its left, (i, j - 1), and predicts (i, j); the
last one only reads. It sees the R rows above, C columns to either side, and its own row up to itself.
Shapes: B samples, (h, w) the window, K codes, C channels, P tokens of the condition, n lanes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..bounds import Count, Decay, Share, Width, check_ranges
from ..conditions import Condition, ConditionConfig, Fields
from ..conditions.base import window_cells
from ..layers.recompute import run_layer
from ..transformer.block import Block, final_norm, initialize
from ..transformer.rope import paired, rope_tables
from .base import Prediction, Prior
from .decoders.rolling_cache import LanePositions, RollingCache
from .decoders.rolling_decoder import RollingDecoder
from .decoding import Decoder, DecodingRequest
from .gpt import CodeHead
from .standing_tokens import StandingTokens


@dataclass(frozen=True)
class NeighborhoodConfig:
    """A prior with two-dimensional causal neighborhood attention in blocks of the kind ``modern``."""

    kind: Literal["neighborhood"] = "neighborhood"
    layers: Width = 24
    heads: Width = 16
    width: Width = 1024
    window: tuple[Width, Width] = (16, 16)  # rows and columns of the crops of codes it is trained on
    rows_above: Width = 8  # rows above that a position sees
    columns_beside: Width = 8  # columns to either side that a position sees
    embedding_dropout: Decay = 0.0
    attention_dropout: Decay = 0.0
    residual_dropout: Decay = 0.0
    token_keep_prob: Share = 1.0  # the chance that an input code is kept in training, else it is a random one
    condition_dropout: Decay = 0.0  # the chance that a sample loses its condition; guidance needs some, 0.1 is usual
    label_smoothing: Decay = 0.0
    activation_checkpointing: bool = False
    loss_chunk: Count = 1024  # positions whose logits are alive at a time

    def __post_init__(self) -> None:
        problems = []
        if self.heads >= 1 and self.width % (4 * self.heads):
            problems.append(f"width (={self.width}) must be a multiple of 4 * heads (={4 * self.heads})")
        check_ranges(self, *problems)

    def build(self, codes: int, condition: ConditionConfig) -> "NeighborhoodPrior":
        """A fresh prior over ``codes`` codes."""
        return NeighborhoodPrior(self, codes, condition.build(self.width, self.window))


class NeighborhoodPrior(Prior):
    """The prior. Its condition is added where it stands; the mean of tokens that stand nowhere is added everywhere."""

    cells: Tensor  # (h * (w + 1), 2) rows and columns of the positions
    mask: Tensor  # (h * (w + 1), h * (w + 1)) bool

    def __init__(self, config: NeighborhoodConfig, codes: int, condition: Condition) -> None:
        super().__init__(codes, config.window, condition, config.token_keep_prob, config.condition_dropout)
        if condition.hides_tokens:
            raise ValueError(
                "a prior of kind neighborhood cannot hide tokens of its condition; use a prior of kind gpt"
            )
        self.config = config
        self.tok_emb = nn.Embedding(codes, config.width)
        self.edge = nn.Parameter(0.02 * torch.randn(config.width))  # to the left of a row
        self.drop = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(
            Block("llama", config.width, config.heads, config.attention_dropout, config.residual_dropout)
            for _ in range(config.layers)
        )
        self.ln_f = final_norm("llama", config.width)
        self.head = CodeHead(config.width, codes, bias=False)
        rows, columns = config.window
        cells = window_cells((rows, columns + 1))
        self.register_buffer("cells", cells, persistent=False)
        mask = causal_neighborhood(cells, config.rows_above, config.columns_beside)
        self.register_buffer("mask", mask, persistent=False)
        self.standing = StandingTokens(condition)
        self.apply(initialize)

    def forward(
        self,
        indices: Tensor,
        fields: Fields,
        targets: Tensor | None = None,
        dropped: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Prediction:
        """Predict every code from its neighborhood's past; see ``GPT.forward``. There is one order, the raster's."""
        self.check_window(indices)
        self.check_raster(self.config.kind, order)
        local = self.local(fields, len(indices), dropped)
        local = torch.cat((local, local[:, :, -1:]), dim=2)  # a row's last position knows what holds beside it
        edge = self.edge.expand(len(indices), self.window[0], 1, -1)
        left = torch.cat((edge, self.tok_emb(indices)), dim=2)
        x: Tensor = self.drop(rearrange(left + local, "b h w c -> b (h w) c"))
        rope = rope_tables(self.cells, self.config.width // self.config.heads)
        for block in self.blocks:
            x = run_layer(block, x, rope, self.mask, recompute=self.config.activation_checkpointing)
        features = rearrange(self.ln_f(x), "b (h w) c -> b h w c", h=self.window[0])[:, :, :-1]
        return self.head.predict(features, targets, self.config.label_smoothing, self.config.loss_chunk)

    def local(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """(B, h, w, C): what the condition says at every cell of a window."""
        local: Tensor = self.standing(self.condition(fields, batch, dropped))
        return local

    def rows_at_once(self, columns: int) -> int:
        """A row waits for the neighborhood in the row above; see ``Prior``."""
        return -(-columns // (self.config.columns_beside + 1))

    def decoder(self, request: DecodingRequest) -> Decoder:
        """What samples grids of any size, code by code."""
        return RollingDecoder(self, request)

    def cache(self, images: int, columns: int, rows: int) -> RollingCache:
        """An empty cache for images of ``columns`` codes a row, keeping ``rows`` rows above the neighborhood."""
        config = self.config
        neighborhood = (config.rows_above, config.columns_beside)
        kept = config.rows_above + rows
        weights = [block.step_weights() for block in self._blocks()]
        return RollingCache(weights, images, kept, columns + 1, neighborhood, config.heads, self.head.weight)

    def step(self, left: Tensor, local: Tensor, aim: LanePositions, cache: RollingCache) -> Tensor:
        """Read one position of every lane and predict its code.

        Args:
            left: (n,) int64 codes to the left; of no meaning at the start of a row.
            local: (n, C) what the condition says there.
            aim: where the positions are; everything that they see must have been read.
            cache: of their images.

        Returns:
            (n, K) logits.
        """
        x = torch.where((aim.columns == 0)[:, None], self.edge, self.tok_emb(left)) + local
        places = torch.stack((aim.rows, aim.columns), dim=1)
        rope = rope_tables(rearrange(places, "n place -> n 1 1 place"), self.config.width // self.config.heads)
        rope, near = paired(rope), cache.neighborhoods(aim)
        for layer, (block, weights) in enumerate(zip(self._blocks(), cache.weights, strict=True)):
            x = block.step(x, weights, rope, partial(cache.extend, layer, near))
        logits: Tensor = self.head(self.ln_f(x))
        return logits

    def _blocks(self) -> Sequence[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


def causal_neighborhood(cells: Tensor, above: int, beside: int) -> Tensor:
    """(N, N) bool: whether the query of a row may look at the key of a column; ``cells`` (N, 2) in raster order."""
    down, across = (cells[:, None] - cells[None]).unbind(-1)
    before = (down > 0) | ((down == 0) & (across >= 0))
    return before & (down <= above) & (across.abs() <= beside)
