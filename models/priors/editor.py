"""The editor: a transformer that fills the masked part of an image, given the rest and a label map of the whole.

A bidirectional encoder reads the codes of image and map, with masked codes replaced by one vector. A causal decoder,
with attention to the encoder, predicts the codes block by block (ASSET, Liu et al. 2022, section 3). Grids of any size
that the blocks divide are read with the same weights.

Each block of the decoder has s + 1 rows for its s codes: row r reads code r - 1 of the block, the first one a start
token, and predicts code r; the last one only reads. A row knows, by the encoder's output there, which place it
predicts.

Shapes: B samples, (h, w) a grid, N blocks of s codes, C channels, K codes.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bounds import Count, Decay, Natural, Width, check_ranges
from ..conditions import CodeMapConfig, ConditionConfig, Fields
from ..conditions.edit import BEFORE, GUIDE, MASKED, Edit
from ..layers.recompute import run_layer
from ..losses.chunked_cross_entropy import IGNORED
from ..transformer.block import initialize
from ..transformer.block_layers import DecoderLayer, EncoderLayer, NormPlace, PositionGenerator
from ..transformer.block_sparse import BlockGrid, Neighbors, block_grid
from .base import Prediction, Prior
from .block_choice import AttentionKind, BlockChoice, Looks
from .decoders.edit_decoder import EditDecoder
from .decoding import Decoder, DecodingRequest
from .gpt import CodeHead


@dataclass(frozen=True)
class EditorConfig:
    """An editor; the default is the published 7 + 15 layers of 1024 channels, without sparsity."""

    kind: Literal["editor"] = "editor"
    encoder_layers: Width = 7
    decoder_layers: Width = 15
    heads: Width = 16
    width: Width = 1024
    window: tuple[Width, Width] = (16, 16)  # codes of the crops it is trained on
    blocks: tuple[Width, Width] = (8, 8)  # rows and columns of blocks that every grid is cut into
    attention: AttentionKind = "dense"  # which blocks are looked at: all, a fixed pattern, or what a guide looks at
    neighbors: Neighbors = "square"  # that are always looked at, of static and guided attention; strip: published
    picks: Natural = 3  # further blocks, of static and guided attention
    norm: NormPlace = "post"  # LayerNorm behind each sum, as published, or before each part
    dropout: Decay = 0.0
    activation_checkpointing: bool = False
    loss_chunk: Count = 1024  # positions whose logits are alive at a time

    def __post_init__(self) -> None:
        problems = []
        if self.heads >= 1 and self.width % self.heads:
            problems.append(f"width (={self.width}) must be a multiple of heads (={self.heads})")
        if any(side % count for side, count in zip(self.window, self.blocks, strict=True) if count >= 1):
            problems.append(f"window (={self.window}) must be a multiple of blocks (={self.blocks}) along both sides")
        check_ranges(self, *problems)

    def build(self, codes: int, condition: ConditionConfig) -> "Editor":
        """A fresh editor over ``codes`` codes.

        Raises:
            ValueError: the condition is no map of codes.
        """
        if not isinstance(condition, CodeMapConfig):
            raise ValueError(
                f"an editor is conditioned on a label map, got {condition.kind}; "
                "set condition: {kind: code_map, field: segmentation_codes}"
            )
        return Editor(self, codes, Edit(condition, self.width, self.window, self.attention == "guided"))


class Memory(NamedTuple):
    """What the encoder leaves to the decoder."""

    codes: Tensor  # (B, N, s, C)
    places: Tensor  # (B, N, s + 1, C): what tells a row which place it predicts, zeros for the last one


class Editor(Prior):
    """The editor. Masked codes alone have a loss."""

    places: Tensor

    def __init__(self, config: EditorConfig, codes: int, condition: Edit) -> None:
        super().__init__(codes, config.window, condition, keep=1.0, condition_dropout=0.0)
        self.config = config
        layers = (config.encoder_layers, config.decoder_layers)
        self.choice = BlockChoice(config.attention, config.blocks, config.neighbors, config.picks, layers, config.heads)
        width, layer = config.width, (config.width, config.heads, config.dropout, config.norm)
        self.tok_emb = nn.Embedding(codes + 2, width)  # the codes, what stands for a masked one, the start of a block
        self.block_emb = nn.Embedding(config.blocks[0] * config.blocks[1], width)
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)
        self.encoder_layers = nn.ModuleList(EncoderLayer(*layer) for _ in range(layers[0]))
        self.positions = nn.ModuleList(PositionGenerator(width) for _ in range(layers[0]))
        self.decoder_position = PositionGenerator(width)
        self.decoder_layers = nn.ModuleList(DecoderLayer(*layer) for _ in range(layers[1]))
        self.encoder_end, self.decoder_end = (
            nn.LayerNorm(width) if config.norm == "pre" else nn.Identity() for _ in range(2)
        )
        self.head = CodeHead(width, codes, bias=False)
        self.register_buffer("places", torch.arange(config.blocks[0] * config.blocks[1]), persistent=False)
        self.apply(initialize)

    def forward(
        self,
        indices: Tensor,
        fields: Fields,
        targets: Tensor | None = None,
        dropped: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Prediction:
        """Predict every code from the known ones, the map, and the codes before it in the order of the blocks.

        Args:
            indices: (B, h, w) int64 codes of the whole image; the encoder does not see those that are masked.
            fields: what ``Edit`` reads.
            targets: (B, h, w) int64, the codes to predict; those outside the mask have no loss. Without them: logits.
            dropped: (B,) bool, samples that are read with the map as it was before the edit.
            order: there is but one.

        Raises:
            ValueError: the blocks do not divide the grid.
        """
        grid = self.grid(indices)
        looks = self.choice.looks(fields, grid.cells, indices.device)
        hidden = self._features(indices, fields, dropped, grid, looks)
        if targets is None:
            return Prediction(grid.from_blocks(self.head(hidden)), None)
        wanted = grid.to_blocks(targets.masked_fill(~fields[MASKED], IGNORED))
        loss, ranks = self.head(hidden, wanted, 0.0, self.config.loss_chunk)
        return Prediction(None, grid.from_blocks(loss), None if ranks is None else grid.from_blocks(ranks))

    def counted(self, fields: Fields) -> Tensor | None:
        """The masked codes."""
        return fields[MASKED]

    def rows_at_once(self, columns: int) -> int:
        """One: block comes after block."""
        return 1

    def decoder(self, request: DecodingRequest) -> Decoder:
        """See ``EditDecoder``."""
        return EditDecoder(self, request)

    def check_guidance(self, fields: Fields) -> None:
        """An editor is guided away from what it would make by the map as it was; no training need prepare for that."""
        if BEFORE not in fields:
            raise ValueError(f"guidance of an editor needs the map before the edit, the field {BEFORE!r}")

    @torch.no_grad()
    def affinities(self, indices: Tensor, fields: Fields) -> dict[str, Tensor]:
        """How much each block looks at each, for editors that this one guides: the fields ``GUIDE``.

        Args:
            indices: (B, h, w) int64 codes of the whole image.
            fields: of the same grid.

        Raises:
            ValueError: this editor does not look at all blocks.
        """
        if self.config.attention != "dense":
            raise ValueError(f"a guide must have attention: dense, got {self.config.attention}")
        seen: dict[str, list[Tensor]] = {name: [] for name in GUIDE}
        self._features(indices, fields, None, self.grid(indices), self.choice.watched(seen))
        return {name: torch.stack(found, dim=1) for name, found in seen.items()}

    def grid(self, indices: Tensor) -> BlockGrid:
        """How (B, h, w) codes are cut into blocks."""
        return block_grid((indices.shape[1], indices.shape[2]), self.config.blocks)

    def encode(self, indices: Tensor, fields: Fields, dropped: Tensor | None, grid: BlockGrid, looks: Looks) -> Memory:
        """Read the known codes and the map."""
        seen = indices.masked_fill(fields[MASKED], self.codes)
        x = grid.to_blocks(self.tok_emb(seen) + self.condition(fields, len(indices), dropped))
        x = self.drop(self.encoder_norm(x + self.block_emb(self.places)[:, None]))
        for position, layer, attend in zip(self.positions, self.encoder_layers, looks.encoder, strict=True):
            x = run_layer(layer, x + position(x, grid.height), attend, recompute=self.config.activation_checkpointing)
        x = self.encoder_end(x)
        return Memory(x, F.pad(self.decoder_position(x, grid.height), (0, 0, 0, 1)))

    def reads(self, codes: Tensor) -> Tensor:
        """What the rows of blocks (..., s) of codes read, (..., s + 1)."""
        return F.pad(codes, (1, 0), value=self.codes + 1)

    def embed(self, read: Tensor, places: Tensor, blocks: Tensor) -> Tensor:
        """The decoder's input (B, n, r, C): what r rows of n blocks read, (B, n, r), and which places they predict.

        Args:
            places: (B, n, r, C), of ``Memory``.
            blocks: (n,) the numbers of the blocks.
        """
        output: Tensor = self.drop(self.decoder_norm(self.tok_emb(read) + self.block_emb(blocks)[:, None] + places))
        return output

    def _features(
        self, indices: Tensor, fields: Fields, dropped: Tensor | None, grid: BlockGrid, looks: Looks
    ) -> Tensor:
        """(B, N, s, C): what each code is predicted from."""
        memory = self.encode(indices, fields, dropped, grid, looks)
        x = self.embed(self.reads(grid.to_blocks(indices)), memory.places, self.places)
        for layer, attend, look in zip(self.decoder_layers, looks.decoder, looks.cross, strict=True):
            x = run_layer(layer, x, memory.codes, attend, look, recompute=self.config.activation_checkpointing)
        output: Tensor = self.decoder_end(x)[:, :, :-1]
        return output
