"""A prior made for large pictures: every cell looks at a neighbourhood of its past, with relative positions.

Trained on crops, it means the same anywhere in a picture, so keys and values stay valid when painting moves on, and a
picture of any size costs one position's forward a code.

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
from torch.utils.checkpoint import checkpoint

from ..bounds import Count, Decay, PositiveShare, Width, check_ranges
from ..conditions import NOWHERE, Condition, ConditionConfig, Fields
from ..conditions.base import window_cells
from ..transformer.block import Block, final_norm, initialise
from ..transformer.rope import rotation
from .base import Prediction, Prior
from .decoding import Decoder, Request
from .gpt import CodeHead
from .rolling_cache import Aim, RollingCache
from .rolling_decoder import RollingDecoder


@dataclass(frozen=True)
class NeighbourhoodConfig:
    """A prior with two-dimensional causal neighbourhood attention in blocks of the kind ``modern``."""

    kind: Literal["neighbourhood"] = "neighbourhood"
    layers: Width = 24
    heads: Width = 16
    width: Width = 1024
    window: tuple[Width, Width] = (16, 16)  # rows and columns of the crops of codes it is trained on
    above: Width = 8  # rows above that a position sees
    beside: Width = 8  # columns to either side that a position sees
    embedding_dropout: Decay = 0.0
    attention_dropout: Decay = 0.0
    residual_dropout: Decay = 0.0
    keep: PositiveShare = 1.0  # the chance that an input code is kept in training, else it is a random one
    condition_drop: Decay = 0.0  # the chance that a sample loses its condition; guidance needs some, 0.1 is usual
    label_smoothing: Decay = 0.0
    checkpoint_activations: bool = False
    loss_rows: Count = 1024  # positions whose logits are alive at a time

    def __post_init__(self) -> None:
        counts = ("layers", "heads", "width", "above", "beside", "loss_rows")
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}" for name in counts if getattr(self, name) < 1
        ]
        if min(self.window) < 1:
            problems.append(f"window must have at least 1 row and 1 column, got {self.window}")
        if self.heads >= 1 and self.width % (4 * self.heads):
            problems.append(f"width (={self.width}) must be a multiple of 4 * heads (={4 * self.heads})")
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout", "condition_drop", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.keep <= 1:
            problems.append(f"keep must be in (0, 1], got {self.keep}")
        if problems:
            raise ValueError("; ".join(problems))
        check_ranges(self)

    def build(self, codes: int, condition: ConditionConfig) -> "NeighbourhoodPrior":
        """A fresh prior over ``codes`` codes."""
        return NeighbourhoodPrior(self, codes, condition.build(self.width, self.window))


class NeighbourhoodPrior(Prior):
    """The prior. Its condition is added where it stands; the mean of tokens that stand nowhere is added everywhere."""

    cells: Tensor  # (h * (w + 1), 2) rows and columns of the positions
    mask: Tensor  # (h * (w + 1), h * (w + 1)) bool
    standing: Tensor  # numbers of the condition's tokens that stand at a cell
    stands_at: Tensor  # the raster numbers of their cells
    nowhere: Tensor  # numbers of the others

    def __init__(self, config: NeighbourhoodConfig, codes: int, condition: Condition) -> None:
        super().__init__(codes, config.window, condition, config.keep, config.condition_drop)
        self.config = config
        self.tok_emb = nn.Embedding(codes, config.width)
        self.edge = nn.Parameter(0.02 * torch.randn(config.width))  # to the left of a row
        self.drop = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(
            Block("modern", config.width, config.heads, config.attention_dropout, config.residual_dropout)
            for _ in range(config.layers)
        )
        self.ln_f = final_norm("modern", config.width)
        self.head = CodeHead(config.width, codes, bias=False)
        rows, columns = config.window
        cells = window_cells((rows, columns + 1))
        tokens = condition.cells()
        stands = tokens[:, 0] != NOWHERE
        for name, buffer in {
            "cells": cells,
            "mask": causal_neighbourhood(cells, config.above, config.beside),
            "standing": stands.nonzero()[:, 0],
            "stands_at": (tokens[:, 0] * columns + tokens[:, 1])[stands],
            "nowhere": (~stands).nonzero()[:, 0],
        }.items():
            self.register_buffer(name, buffer, persistent=False)
        self.apply(initialise)

    def forward(
        self,
        indices: Tensor,
        fields: Fields,
        targets: Tensor | None = None,
        dropped: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Prediction:
        """Predict every code from its neighbourhood's past; see ``GPT.forward``. There is one order, the raster's."""
        self.check_window(indices)
        if order is not None:
            raise ValueError("the prior 'neighbourhood' has one order, the raster's; leave order out")
        local = self.local(fields, len(indices), dropped)
        local = torch.cat((local, local[:, :, -1:]), dim=2)  # a row's last position knows what holds beside it
        edge = self.edge.expand(len(indices), self.window[0], 1, -1)
        left = torch.cat((edge, self.tok_emb(indices)), dim=2)
        x: Tensor = self.drop(rearrange(left + local, "b h w c -> b (h w) c"))
        turn = rotation(self.cells, self.config.width // self.config.heads)
        for block in self.blocks:
            if self.config.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, turn, self.mask, use_reentrant=False)
            else:
                x = block(x, turn, self.mask)
        features = rearrange(self.ln_f(x), "b (h w) c -> b h w c", h=self.window[0])[:, :, :-1]
        if targets is None:
            return Prediction(self.head(features), None)
        loss = self.head(features, targets, self.config.label_smoothing, self.config.loss_rows)
        return Prediction(None, loss)

    def local(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """(B, h, w, C): what the condition says at every cell of a window."""
        tokens: Tensor = self.condition(fields, batch, dropped)
        rows, columns = self.window
        local = tokens.new_zeros(batch, rows * columns, tokens.shape[2])
        local = local.index_add(1, self.stands_at, tokens[:, self.standing])
        if len(self.nowhere):
            local = local + tokens[:, self.nowhere].mean(dim=1, keepdim=True)
        return rearrange(local, "b (h w) c -> b h w c", h=rows)

    def decoder(self, request: Request) -> Decoder:
        """What paints grids of any size, code by code."""
        return RollingDecoder(self, request)

    def cache(self, pictures: int, columns: int, rows: int) -> RollingCache:
        """An empty cache for pictures of ``columns`` codes a row, keeping ``rows`` rows above the neighbourhood."""
        config = self.config
        neighbourhood = (config.above, config.beside)
        kept = config.above + rows
        return RollingCache(config.layers, pictures, kept, columns + 1, neighbourhood, config.heads, self.head.weight)

    def step(self, left: Tensor, local: Tensor, aim: Aim, cache: RollingCache) -> Tensor:
        """Read one position of every lane and predict its code.

        Args:
            left: (n,) int64 codes to the left; of no meaning at the start of a row.
            local: (n, C) what the condition says there.
            aim: where the positions are; everything that they see must have been read.
            cache: of their pictures.

        Returns:
            (n, K) logits.
        """
        x = torch.where((aim.columns == 0)[:, None], self.edge, self.tok_emb(left)) + local
        x = rearrange(x, "n c -> n 1 c")
        places = rearrange(torch.stack((aim.rows, aim.columns), dim=1), "n place -> n 1 1 place")
        turn = rotation(places, self.config.width // self.config.heads)
        for layer, block in enumerate(self._blocks()):
            x = block.step(x, turn, partial(cache.extend, layer, aim))
        logits: Tensor = self.head(self.ln_f(x[:, 0]))
        return logits

    def _blocks(self) -> Sequence[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


def causal_neighbourhood(cells: Tensor, above: int, beside: int) -> Tensor:
    """(N, N) bool: whether the query of a row may look at the key of a column; ``cells`` (N, 2) in raster order."""
    down, across = (cells[:, None] - cells[None]).unbind(-1)
    before = (down > 0) | ((down == 0) & (across >= 0))
    return before & (down <= above) & (across.abs() <= beside)
