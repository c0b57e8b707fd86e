"""The transformer prior: a GPT over [condition | codes of one window] (Esser et al. 2021, section 3.2).

Shapes: B samples, P tokens of the condition, (h, w) the window, N = h * w codes, T = P + N positions,
C channels, K codes, L lanes of a cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..bounds import Count, Decay, Natural, Share, Width, check_ranges
from ..conditions import Condition, ConditionConfig, Fields
from ..layers.recompute import run_layer
from ..losses.chunked_cross_entropy import code_cross_entropy, target_ranks
from ..transformer.attention import share_heads
from ..transformer.block import Activation, Block, BlockKind, StepWeights, final_norm, initialize
from ..transformer.key_value_cache import KeyValueCache
from ..transformer.rope import RopeTables, paired, rope_tables
from ..transformer.sequence_parallel import Exchange, part
from .base import Prediction, Prior
from .decoders.window_decoder import WindowDecoder
from .decoding import Decoder, DecodingRequest
from .orders import AnnealingConfig, OrderConfig


@dataclass(frozen=True)
class GPTConfig:
    """A prior over windows of codes; the default is the reference's 24 x 16 x 1024."""

    kind: Literal["gpt"] = "gpt"
    layers: Width = 24
    heads: Width = 16
    width: Width = 1024
    window: tuple[Width, Width] = (16, 16)  # rows and columns of codes
    block: BlockKind = "gpt2"
    activation: Activation = "gelu"  # of the block gpt2; gelu_tanh is that of GPT-2 itself
    embedding_dropout: Decay = 0.0
    attention_dropout: Decay = 0.0
    residual_dropout: Decay = 0.0
    token_keep_prob: Share = 1.0  # the chance that an input code is kept in training, else it is a random one
    condition_dropout: Decay = 0.0  # the chance that a sample loses its condition; guidance needs some, 0.1 is usual
    label_smoothing: Decay = 0.0
    # so many of the condition's first tokens see each other in both directions (the reference's n_unmasked)
    bidirectional_prefix: Natural = 0
    order: OrderConfig = field(default_factory=OrderConfig)
    annealing: AnnealingConfig | None = None
    activation_checkpointing: bool = False
    loss_chunk: Count = 1024  # positions whose logits are alive at a time

    def __post_init__(self) -> None:
        problems = []
        if self.heads >= 1 and self.width % self.heads:
            problems.append(f"width (={self.width}) must be a multiple of heads (={self.heads})")
        elif self.heads >= 1 and self.block != "gpt2" and self.width // self.heads % 4:
            problems.append(
                f"width / heads (={self.width // self.heads}) must be a multiple of 4 for the block {self.block!r}"
            )
        if self.block != "gpt2" and self.activation != "gelu":
            problems.append(f"activation (={self.activation}) is of the block 'gpt2', and this one is {self.block!r}")
        check_ranges(self, *problems)

    def build(self, codes: int, condition: ConditionConfig) -> "GPT":
        """A fresh prior over ``codes`` codes."""
        return GPT(self, codes, condition.build(self.width, self.window))


class CodeHead(nn.Linear):
    """Features to logits or, with targets, to what is thought of them, so that the weight is used in this call alone.

    ZeRO stage 3 has the weight at hand only there.
    """

    def forward(  # type: ignore[override]  # with targets it gives what no other linear layer does
        self, features: Tensor, targets: Tensor | None = None, smoothing: float = 0.0, rows: int = 1024
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """(..., C) to logits (..., K); with targets (...) to their losses and, in evaluation, ranks, (...) each."""
        if targets is None:
            return super().forward(features)
        head, flat, wanted = partial(F.linear, weight=self.weight), features.flatten(0, -2), targets.flatten()
        ranks = None if self.training else target_ranks(head, flat, wanted, rows).view_as(targets)
        return code_cross_entropy(head, flat, wanted, smoothing, rows).view_as(targets), ranks

    def predict(self, features: Tensor, targets: Tensor | None, smoothing: float, rows: int) -> Prediction:
        """What a prior says of a batch by its (B, h, w, C) features; see ``Prediction``."""
        if targets is None:
            return Prediction(self(features), None)
        return Prediction(None, *self(features, targets, smoothing, rows))


class GPT(Prior):
    """The prior. Parameters are named as in the reference; the condition has tables of its own."""

    cells: Tensor
    places: Tensor

    def __init__(self, config: GPTConfig, codes: int, condition: Condition) -> None:
        super().__init__(codes, config.window, condition, config.token_keep_prob, config.condition_dropout)
        if config.bidirectional_prefix > condition.length:
            raise ValueError(
                f"bidirectional_prefix must be at most the {condition.length} tokens of the condition, got "
                f"{config.bidirectional_prefix}: codes that see each other would see what they are to predict"
            )
        self.config = config
        self.exchange: Exchange | None = None
        positions = condition.length + config.window[0] * config.window[1]
        self.tok_emb = nn.Embedding(codes, config.width)
        if config.block == "gpt2":
            self.pos_emb = nn.Parameter(torch.zeros(1, positions, config.width))
        if config.annealing is not None:
            self.next_emb = nn.Parameter(torch.zeros(1, positions - condition.length, config.width))
        self.drop = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(
            Block(
                config.block,
                config.width,
                config.heads,
                config.attention_dropout,
                config.residual_dropout,
                config.activation,
            )
            for _ in range(config.layers)
        )
        self.ln_f = final_norm(config.block, config.width)
        self.head = CodeHead(config.width, codes, bias=False)
        self._order = config.order.build(config.window)  # (N,), always on the CPU, where orders are drawn
        self._by_cell = config.order.kind == "raster"  # nothing is to be put in order
        self.register_buffer("cells", self._order, persistent=False)  # (N,)
        self.register_buffer("places", self._positions(), persistent=False)  # (T, 2)
        self.apply(initialize)

    def forward(
        self,
        indices: Tensor,
        fields: Fields,
        targets: Tensor | None = None,
        dropped: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Prediction:
        """Predict every code from those before it in the order.

        Args:
            indices: (B, h, w) int64, the codes read; h and w are the window's.
            fields: what the condition reads, each (B, ...).
            targets: (B, h, w) int64, the codes to predict; ``IGNORED`` ones have no loss. Without them: logits.
            dropped: (B,) bool, samples that lose their condition.
            order: (B, N) int64 as ``Draw.order``; by default the prior's own.
        """
        batch = len(indices)
        self.check_window(indices)
        cells = self._cells_of(batch) if order is None else order
        codes = rearrange(indices, "b h w -> b (h w)")
        codes = codes if cells is None else codes.gather(1, cells)
        x = self._embed(codes[:, :-1], self.condition(fields, batch, dropped), cells)
        places = self.places[:-1] if order is None else self._positions_of(order[:, :-1])
        positions = x.shape[1]
        if self.exchange is not None:
            x, places = part(x, self.exchange), part(places, self.exchange)
        rope, length = self._rope(places), x.shape[1] * (1 if self.exchange is None else self.exchange.ranks)
        mask = self._mask(length, x.device, self._hidden(fields))
        for block in self.blocks:
            x = run_layer(block, x, rope, mask, recompute=self.config.activation_checkpointing)
        if self.exchange is not None:
            x = self.exchange.whole(x)[:, :positions]
        features = self.ln_f(x[:, self.condition.length - 1 :])
        if cells is not None:
            # The outputs stand in the order of prediction; the grid wants them by cell.
            features = features.gather(1, cells.argsort(dim=1)[..., None].expand(-1, -1, x.shape[2]))
        features = rearrange(features, "b (h w) c -> b h w c", h=self.window[0])
        return self.head.predict(features, targets, self.config.label_smoothing, self.config.loss_chunk)

    def share_sequence(self, exchange: Exchange) -> None:
        """Let ``forward`` hold one rank's share of the positions; see ``Prior``."""
        if self.condition.hides_tokens:
            raise ValueError("a sequence with hidden tokens cannot be shared; set sequence_parallel_size: 1")
        share_heads(self, exchange)
        self.exchange = exchange

    def draw_order(self, generator: torch.Generator, progress: float) -> Tensor | None:
        """A random order with the annealing's chance, else the prior's own; see ``Prior``."""
        if self.config.annealing is None:
            return None
        if torch.rand((), generator=generator) < self.config.annealing.chance(progress):
            return torch.randperm(len(self.cells), generator=generator)
        return self._order

    def rows_at_once(self, columns: int) -> int:
        """A row waits for the window of the row above; see ``Prior``."""
        raster = bool((self.cells.diff() > 0).all())
        return -(-columns // self.window[1]) if raster else 1

    def decoder(self, request: DecodingRequest) -> Decoder:
        """What samples grids as large as the window or larger, code by code."""
        return WindowDecoder(self, request)

    def step_weights(self) -> list[StepWeights]:
        """What every step multiplies by, layer by layer; prepared once for all caches."""
        return [block.step_weights() for block in self._blocks()]

    def cache(self, lanes: int, weights: Sequence[StepWeights]) -> KeyValueCache:
        """An empty cache for ``lanes`` windows; the weights are those of ``step_weights``."""
        config = self.config
        rope = self._rope(rearrange(self.places, "t place -> t 1 1 place"))
        channels = config.width // config.heads
        like, rope = self.head.weight, None if rope is None else paired(rope)
        return KeyValueCache(weights, lanes, config.heads, len(self.places), channels, rope, like)

    def prefill(
        self, codes: Tensor, held: Tensor, fields: Fields, dropped: Tensor, cache: KeyValueCache, lanes: Tensor
    ) -> Tensor:
        """Read the first codes of some windows and predict the next.

        Args:
            codes: (n, t) the first codes of n windows, in the prior's order; t may be 0.
            held: (n,) how many of them count; what lies behind leaves no trace.
            fields: what the condition reads, each (n, ...).
            dropped: (n,) bool, windows that are read without their condition.
            cache: whose lanes are filled anew.
            lanes: (n,) the lane that each window goes to; the cache's spare one for windows that are read in vain.

        Returns:
            (n, K) logits of code ``held``.
        """
        prefix = self.condition(fields, len(codes), dropped)
        x = self._embed(codes, prefix, self._cells_of(len(codes)))
        rope = None if cache.rope is None else RopeTables(*(table[: x.shape[1]] for table in cache.rope))
        end = held + (prefix.shape[1] - 1)
        last = rearrange(end, "n -> n 1 1").expand(-1, -1, x.shape[2])
        hidden = torch.arange(x.shape[1], device=end.device) > end[:, None]
        unseen = self._hidden(fields)
        seen = self._mask(x.shape[1], x.device, unseen)
        if unseen is not None:
            cache.hide(lanes, unseen)
            reads_itself = torch.arange(unseen.shape[1], device=end.device) == end[:, None]
            hidden[:, : unseen.shape[1]] |= unseen & ~reads_itself
        mask = rearrange(hidden.to(x.dtype).masked_fill_(hidden, -torch.inf), "n t -> n 1 1 t")
        for layer, (block, weights) in enumerate(zip(self._blocks(), cache.weights, strict=True)):
            final = layer == self.config.layers - 1
            x, keys, values = block.prefill(x, weights, rope, *((last, mask) if final else (None, seen)))
            cache.fill(layer, lanes, keys, values)
        cache.lengths.index_copy_(0, lanes, end + 1)
        logits: Tensor = self.head(self.ln_f(x[:, 0]))
        return logits

    def step(self, codes: Tensor, cache: KeyValueCache, live: Tensor) -> Tensor:
        """Read one more code of every lane and predict the next.

        Args:
            codes: (L,) the code behind those that the lanes hold.
            cache: of L lanes.
            live: (L,) bool, the lanes that take part; the others' codes and results mean nothing and leave no trace.

        Returns:
            (L, K) logits.
        """
        position = cache.lengths[:-1].clamp(self.condition.length, len(self.places) - 1)
        read = position - self.condition.length  # how many codes the lane held before this one
        x = self.tok_emb(codes)
        if self.config.block == "gpt2":
            x = x + self.pos_emb[0, self.condition.length + self.cells[read]]
        if self.config.annealing is not None:
            x = x + self.next_emb[0, self.cells[(read + 1).clamp(max=len(self.cells) - 1)]]
        rope = None if cache.rope is None else RopeTables(*(table[position] for table in cache.rope))
        opened = cache.opened(live)
        for layer, (block, weights) in enumerate(zip(self._blocks(), cache.weights, strict=True)):
            x = block.step(x, weights, rope, partial(cache.extend, layer, opened))
        cache.lengths[:-1] += live
        logits: Tensor = self.head(self.ln_f(x))
        return logits

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _cells_of(self, batch: int) -> Tensor | None:
        """(B, N) cells in the prior's own order, or None where that is the order of the grid."""
        return None if self._by_cell else self.cells.expand(batch, -1)

    def _embed(self, codes: Tensor, prefix: Tensor, cells: Tensor | None) -> Tensor:
        """(B, P + t, C) inputs from (B, t) codes.

        Args:
            cells: (B, N) where each of them and the next one stand; None: one after the other.
        """
        x = torch.cat((prefix, self.tok_emb(codes)), dim=1)
        held = codes.shape[1]
        if self.config.block == "gpt2":
            x = x + self._at(self.pos_emb[0], prefix, cells, held)
        if self.config.annealing is not None:
            # A random order leaves open which cell comes next: the input says so (RAR, Yu et al. 2024, equation 5).
            table = self.next_emb[0]
            following = table[: held + 1] if cells is None else table[cells[:, : held + 1]]
            x = x + F.pad(following, (0, 0, x.shape[1] - following.shape[-2], 0))
        output: Tensor = self.drop(x)
        return output

    def _at(self, table: Tensor, prefix: Tensor, cells: Tensor | None, held: int) -> Tensor:
        """(B or none, P + held, C) rows of a (T, C) table of positions: the condition's, and those of cells."""
        if cells is None:
            return table[: self.condition.length + held]
        behind = table[self.condition.length :][cells[:, :held]]
        return torch.cat((table[: self.condition.length].expand_as(prefix), behind), dim=1)

    def _hidden(self, fields: Fields) -> Tensor | None:
        """(B, P) bool, the tokens of the condition that no other position sees; None where all are seen."""
        return self.condition.hidden(fields) if self.condition.hides_tokens else None

    def _mask(self, length: int, device: torch.device, hidden: Tensor | None) -> Tensor | None:
        """(length, length) or (B, 1, length, length) bool, true where a position may look; None for its past alone."""
        prefix = self.config.bidirectional_prefix
        if not prefix and hidden is None:
            return None
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        mask[:prefix, :prefix] = True
        if hidden is None:
            return mask
        shown = F.pad(~hidden, (0, length - hidden.shape[1]), value=True)
        itself = torch.eye(length, dtype=torch.bool, device=device)
        return mask & (rearrange(shown, "b t -> b 1 1 t") | itself)

    def _positions(self) -> Tensor:
        """(T, 2) rows and columns of the condition's tokens and of the codes in the prior's order.

        Tokens that stand at no cell stand at the first one, but for the block llamagen.
        """
        columns = self.window[1]
        codes = torch.stack((self.cells // columns, self.cells % columns), dim=1)
        prefix = self.condition.cells()
        return torch.cat((prefix if self.config.block == "llamagen" else prefix.clamp(min=0), codes))

    def _positions_of(self, cells: Tensor) -> Tensor:
        """(B, 1, P + t, 2) places where every sample has its own order, (B, t) cells."""
        codes = torch.stack((cells // self.window[1], cells % self.window[1]), dim=-1)
        prefix = self.places[: self.condition.length].expand(len(cells), -1, -1)
        return rearrange(torch.cat((prefix, codes), dim=1), "b t place -> b 1 t place")

    def _rope(self, places: Tensor) -> RopeTables | None:
        """The rotary tables at (..., t, 2) places; the block gpt2 has learned positions in their stead."""
        if self.config.block == "gpt2":
            return None
        return rope_tables(places, self.config.width // self.config.heads)
