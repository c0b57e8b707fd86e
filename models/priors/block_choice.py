"""Where an editor's tables of blocks come from: all blocks, a static pattern, or what a guide looks at.

Shapes: B samples, h heads, N blocks, M blocks in a row of a table.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..conditions import Fields
from ..conditions.edit import GUIDE
from ..transformer.block_layers import Attend
from ..transformer.block_sparse import BlockPattern, Neighbors, block_attention, dense_attention, watched_attention

AttentionKind = Literal["dense", "static", "guided"]


class Tables(NamedTuple):
    """For each layer, which blocks are looked at, (B or 1, h or 1, N, M)."""

    encoder: list[Tensor]
    decoder: list[Tensor]
    cross: list[Tensor]


class Looks(NamedTuple):
    """For each layer, what attends."""

    encoder: Sequence[Attend]
    decoder: Sequence[Attend]
    cross: Sequence[Attend]


class BlockChoice:
    """Which blocks the layers of an editor look at.

    Args:
        kind: ``dense`` is as a table of all blocks, and computed without one where whole grids are read.
        blocks: rows and columns of blocks.
        neighbors, picks: see ``BlockPattern``.
        layers: of the encoder and of the decoder.
        heads: h.
    """

    def __init__(
        self,
        kind: AttentionKind,
        blocks: tuple[int, int],
        neighbors: Neighbors,
        picks: int,
        layers: tuple[int, int],
        heads: int,
    ) -> None:
        self.kind, self.layers, self.heads = kind, layers, heads
        picks = blocks[0] * blocks[1] if kind == "dense" else picks
        self.both_ways, self.causal = (BlockPattern(*blocks, neighbors, picks, causal) for causal in (False, True))
        self._masks: dict[tuple[bool, int, int, torch.device], Tensor] = {}

    def tables(self, fields: Fields, device: torch.device) -> Tables:
        """The tables of all layers.

        Raises:
            KeyError: a guided editor's batch lacks what the guide looks at.
            ValueError: the guide has other layers, heads or blocks.
        """
        parts = zip(GUIDE, (self.both_ways, self.causal, self.both_ways), (0, 1, 1), strict=True)
        return Tables(*(self._of(name, pattern, self.layers[part], fields, device) for name, pattern, part in parts))

    def looks(self, fields: Fields, cells: int, device: torch.device) -> Looks:
        """What attends in each layer, for blocks of so many codes."""
        encoders, decoders = self.layers
        if self.kind == "dense":
            causal = partial(dense_attention, causal=True)
            return Looks([dense_attention] * encoders, [causal] * decoders, [dense_attention] * decoders)
        tables = self.tables(fields, device)
        own, causal_mask, cross = (
            self.mask(causal, queries, keys, device)
            for causal, queries, keys in (
                (False, cells, cells),
                (True, cells + 1, cells + 1),
                (False, cells + 1, cells),
            )
        )
        return Looks(
            [partial(block_attention, table=table, mask=own) for table in tables.encoder],
            [partial(block_attention, table=table, mask=causal_mask) for table in tables.decoder],
            [partial(block_attention, table=table, mask=cross) for table in tables.cross],
        )

    def watched(self, seen: dict[str, list[Tensor]]) -> Looks:
        """Dense attention in each layer that adds what it looks at to ``seen``, by the names of ``GUIDE``.

        Of the decoder's rows, those that predict count as queries and those that read a code as keys.
        """
        encoders, decoders = self.layers
        every, predict, read = slice(None), slice(-1), slice(1, None)
        of_encoder, of_decoder, of_cross = (
            partial(watched_attention, seen=seen[name], causal=causal, rows=rows, columns=columns)
            for name, causal, rows, columns in zip(
                GUIDE, (False, True, False), (every, predict, predict), (every, read, every), strict=True
            )
        )
        return Looks([of_encoder] * encoders, [of_decoder] * decoders, [of_cross] * decoders)

    def mask(self, causal: bool, queries: int, keys: int, device: torch.device) -> Tensor:
        """(N, q, M * k) bool; made once."""
        key = (causal, queries, keys, device)
        if key not in self._masks:
            pattern = self.causal if causal else self.both_ways
            self._masks[key] = pattern.mask(queries, keys).to(device)
        return self._masks[key]

    def _of(self, name: str, pattern: BlockPattern, layers: int, fields: Fields, device: torch.device) -> list[Tensor]:
        if self.kind != "guided":
            return [pattern.static().to(device)] * layers
        if name not in fields:
            raise KeyError(f"a guided editor needs the field {name!r}, from the editor that guides it")
        wanted = (layers, self.heads, pattern.blocks, pattern.blocks)
        if fields[name].shape[1:] != wanted:
            raise ValueError(
                f"{name} must be of {wanted} (layers, heads, blocks, blocks), got {tuple(fields[name].shape[1:])}; "
                "a guide has the layers, heads and blocks of the editor that it guides"
            )
        return [pattern.select(each) for each in fields[name].unbind(1)]
