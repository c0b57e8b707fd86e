"""Attention in which a block of a grid looks at some blocks, named by a table of static shape.

A grid is cut into blocks, and its sequence runs block by block: raster order of the blocks, raster order inside. Query
blocks look at themselves, at their neighbors and at a few further blocks, which a static pattern picks or the
attention of another model on a smaller grid: sparsified guided attention (ASSET, Liu et al. 2022, section 3.2). Keys
are gathered block by block, so time and memory grow with the length of the sequence, and not with its square.

Shapes: B samples, h heads (1 where all share a table), D channels of a head, N blocks, q queries and k keys of a
block, M blocks in a row of a table.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Neighbors = Literal["square", "strip"]

CHUNK = 16
"""Query blocks whose gathered keys are alive at a time."""


class BlockGrid(NamedTuple):
    """A grid of codes cut into equal blocks."""

    rows: int  # of blocks
    columns: int
    height: int  # of a block, in codes
    width: int

    @property
    def blocks(self) -> int:
        """N."""
        return self.rows * self.columns

    @property
    def cells(self) -> int:
        """Codes of a block."""
        return self.height * self.width

    def to_blocks(self, grid: Tensor) -> Tensor:
        """(B, H, W, ...) to (B, N, cells, ...)."""
        sides = self._asdict()
        return rearrange(grid, "b (rows height) (columns width) ... -> b (rows columns) (height width) ...", **sides)

    def from_blocks(self, blocks: Tensor) -> Tensor:
        """(B, N, cells, ...) to (B, H, W, ...)."""
        sides = self._asdict()
        return rearrange(blocks, "b (rows columns) (height width) ... -> b (rows height) (columns width) ...", **sides)


def block_grid(size: tuple[int, int], blocks: tuple[int, int]) -> BlockGrid:
    """The grid of (H, W) codes in so many rows and columns of blocks.

    Raises:
        ValueError: the blocks do not divide the grid.
    """
    (height, width), (rows, columns) = size, blocks
    if height % rows or width % columns or not height or not width:
        raise ValueError(
            f"a grid of {height} x {width} codes cannot be cut into {rows} x {columns} equal blocks; "
            f"take multiples of {rows} rows and {columns} columns"
        )
    return BlockGrid(rows, columns, height // rows, width // columns)


@dataclass(frozen=True)
class BlockPattern:
    """Which blocks a query block may look at, before anything is picked: the same for all samples and heads.

    Args:
        rows, columns: of blocks.
        neighbors: ``square``: the blocks around it on the grid, corners too; ``strip``: those before and behind it in
            the scan (published), two before it where causal.
        picks: further blocks.
        causal: only blocks before it in the scan, beside itself.
    """

    rows: int
    columns: int
    neighbors: Neighbors
    picks: int
    causal: bool

    @property
    def blocks(self) -> int:
        """N."""
        return self.rows * self.columns

    @cached_property
    def near(self) -> Tensor:
        """(N, N) bool, on the CPU: the block itself and its neighbors, of those that it may look at."""
        number = torch.arange(self.blocks, device="cpu")
        if self.neighbors == "strip":
            behind = number[:, None] - number
            near = (behind >= -1) & (behind <= (2 if self.causal else 1))
        else:
            row, column = number // self.columns, number % self.columns
            near = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
        return near & self.allowed

    @cached_property
    def allowed(self) -> Tensor:
        """(N, N) bool, on the CPU: what may be looked at at all."""
        every = torch.ones(self.blocks, self.blocks, dtype=torch.bool, device="cpu")
        return every.tril() if self.causal else every

    @cached_property
    def fixed(self) -> Tensor:
        """(N, F) int64, on the CPU: the block itself, then its neighbors; itself once more where it has fewer."""
        itself = torch.eye(self.blocks, dtype=torch.bool, device="cpu")
        rank = self.near.int() + itself.int()  # itself first, then neighbors in the order of the scan
        order = rank.argsort(dim=1, descending=True, stable=True)[:, : int(self.near.sum(1).max())]
        own = torch.arange(self.blocks, device="cpu")[:, None]
        return torch.where(self.near.gather(1, order), order, own)

    @cached_property
    def valid(self) -> Tensor:
        """(N, M) bool, on the CPU: which places of a table's rows count; a constant, whatever is picked."""
        near = torch.arange(self.fixed.shape[1], device="cpu") < self.near.sum(1, keepdim=True)
        left = (self.allowed & ~self.near).sum(1, keepdim=True)
        return torch.cat((near, torch.arange(self.picked, device="cpu") < left), dim=1)

    @property
    def picked(self) -> int:
        """Places of a row for further blocks: as many as are picked, or as there are."""
        return min(self.picks, int((self.allowed & ~self.near).sum(1).max()))

    def select(self, affinity: Tensor) -> Tensor:
        """(B, h, N, N) how much each block looks at each, to the table (B, h, N, M) of those that it is to look at.

        The blocks that are picked are those of the highest affinity outside the fixed ones. No block is in a row twice
        among its valid places; the others hold the block itself.
        """
        batch, heads = affinity.shape[:2]
        device = affinity.device
        far = affinity.detach().float().masked_fill((self.near | ~self.allowed).to(device), -torch.inf)
        found = far.topk(self.picked, dim=-1).indices
        fixed = repeat(self.fixed.to(device), "n f -> b h n f", b=batch, h=heads)
        table = torch.cat((fixed, found), dim=-1)
        own = torch.arange(self.blocks, device=device)[:, None]
        return torch.where(self.valid.to(device), table, own)

    def static(self) -> Tensor:
        """The table (1, 1, N, M) of a pattern that nothing guides: the picks are spread evenly over what is left."""
        open_blocks = self.allowed & ~self.near
        place = open_blocks.cumsum(1) - 1  # of each among those left
        left = open_blocks.sum(1, keepdim=True).clamp(min=1)
        wanted = ((torch.arange(self.picks, device="cpu") + 0.5) * left / max(self.picks, 1)).long()  # (N, picks)
        chosen = (place[:, None, :] == wanted[..., None]).any(1) & open_blocks
        return self.select((chosen.double() - place.double() * 1e-9)[None, None])

    def mask(self, queries: int, keys: int) -> Tensor:
        """(N, q, M * k) bool, on the CPU: where a query of a block may look among the gathered keys.

        Causal blocks see of themselves what stands before a query, and the query.
        """
        seen = repeat(self.valid, "n m -> n q m k", q=queries, k=keys).clone()
        if self.causal:
            seen[:, :, 0] &= torch.ones(queries, keys, dtype=torch.bool, device="cpu").tril()
        return rearrange(seen, "n q m k -> n q (m k)")

    def expanded(self, table: Tensor, queries: int, keys: int) -> Tensor:
        """(B, h, N * q, N * k) bool: the same attention as a mask of the whole, to compare with."""
        blocks = torch.zeros(*table.shape[:3], self.blocks, dtype=torch.bool, device=table.device)
        blocks.scatter_(3, table, True)  # places that do not count hold the block itself, which always counts
        whole = repeat(blocks, "b h n m -> b h n q m k", q=queries, k=keys).clone()
        if self.causal:
            own = torch.arange(self.blocks, device=table.device)
            whole[:, :, own, :, own] &= torch.ones(queries, keys, dtype=torch.bool, device=table.device).tril()
        return rearrange(whole, "b h n q m k -> b h (n q) (m k)")


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, mask: Tensor, chunk: int = CHUNK
) -> Tensor:
    """Attention of blocks over the blocks that a table names.

    The gathered keys of ``chunk`` query blocks are alive at a time; where gradients are wanted they are gathered once
    more in the backward pass, so that what is kept does not grow with M.

    Args:
        query: (B, heads, n, q, D) of n query blocks.
        key, value: (B, heads, N, k, D), or with B = 1 where all samples share them.
        table: (B or 1, heads or 1, n, M) int64.
        mask: (n, q, M * k) bool, true where a query may look.
        chunk: query blocks that are computed together.

    Returns:
        (B, heads, n, q, D).
    """
    key, value = key.contiguous(), value.contiguous()  # once, and not for every chunk
    parts = zip(*(torch.split(part, chunk, at) for part, at in ((query, 2), (table, 2), (mask, 0))), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_attended(part, key, value, rows, seen) for part, rows, seen in parts], dim=2)
    return torch.cat(
        [checkpoint(_attended, part, key, value, rows, seen, use_reentrant=False) for part, rows, seen in parts], dim=2
    )


def gather_blocks(blocks: Tensor, table: Tensor) -> Tensor:
    """(m, heads, N, k, D) by a table (B or 1, heads or 1, n, M) to (B, heads, n, M * k, D).

    Each of the m serves B / m samples in a row.
    """
    batch, heads = max(len(table), len(blocks)), blocks.shape[1]
    table = table.expand(batch, heads, -1, -1)
    first = torch.arange(len(blocks), device=table.device).repeat_interleave(batch // len(blocks))[:, None, None, None]
    second = torch.arange(heads, device=table.device)[:, None, None]
    flat = (first * heads + second) * blocks.shape[2] + table  # (B, heads, n, M): rows of all blocks in one list
    rows = rearrange(blocks, "b h n k d -> (b h n) (k d)").index_select(0, flat.flatten())
    return rearrange(rows, "(b h n m) (k d) -> b h n (m k) d", b=batch, h=heads, n=table.shape[2], d=blocks.shape[-1])


def _attended(query: Tensor, key: Tensor, value: Tensor, table: Tensor, mask: Tensor) -> Tensor:
    keys, values = gather_blocks(key, table), gather_blocks(value, table)
    batch, heads = query.shape[:2]
    keys, values = (part.expand(batch, *part.shape[1:]) for part in (keys, values))
    flat, keys, values = (rearrange(part, "b h n s d -> (b h) n s d") for part in (query, keys, values))
    mixed = F.scaled_dot_product_attention(flat, keys, values, mask[None])
    return rearrange(mixed, "(b h) n s d -> b h n s d", b=batch, h=heads)


def block_affinity(weights: Tensor) -> Tensor:
    """(B, h, N, q, N, k) attention weights to (B, h, N, N): their mean over the pairs of each two blocks."""
    return reduce(weights, "b h n q m k -> b h n m", "mean")


def dense_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    """Attention of blocks over all blocks, causal in the order of the sequence; shapes as of ``block_attention``."""
    queries, keys, values = (rearrange(part, "b h n s d -> b h (n s) d") for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    return rearrange(mixed, "b h (n s) d -> b h n s d", n=query.shape[2])


def watched_attention(
    query: Tensor, key: Tensor, value: Tensor, seen: list[Tensor], causal: bool, rows: slice, columns: slice
) -> Tensor:
    """As ``dense_attention``, with the scores written out; their affinities are added to ``seen``.

    Args:
        seen: gets (B, heads, N, N), see ``block_affinity``.
        rows, columns: the queries and the keys of each block that count in them.
    """
    queries, keys, values = (rearrange(part, "b h n s d -> b h (n s) d") for part in (query, key, value))
    scores = queries @ keys.transpose(2, 3) * query.shape[-1] ** -0.5
    if causal:
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    weights = scores.softmax(-1)
    pairs = rearrange(weights, "b h (n q) (m k) -> b h n q m k", n=query.shape[2], m=key.shape[2])
    seen.append(block_affinity(pairs[:, :, :, rows, :, columns]))
    mixed: Tensor = rearrange(weights @ values, "b h (n s) d -> b h n s d", n=query.shape[2])
    return mixed
