"""Block-sparse attention against dense attention under the expanded mask, and its tables against brute force."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.models.transformer.block_sparse import (
    BlockPattern,
    block_affinity,
    block_attention,
    block_grid,
    dense_attention,
    gather_blocks,
    watched_attention,
)

PATTERNS = [
    BlockPattern(rows, columns, neighbors, picks, causal)
    for (rows, columns), neighbors, picks, causal in itertools.product(
        [(8, 8), (16, 4), (3, 5), (1, 1)], ["square", "strip"], [0, 3], [False, True]
    )
]
FEW = [
    BlockPattern(3, 5, "square", 3, True),
    BlockPattern(16, 4, "strip", 3, True),
    BlockPattern(5, 3, "square", 2, False),
]

SHAPES = [(pattern, 5, 5, False) for pattern in FEW] + [(FEW[2], 6, 4, True)]  # cross attention has other keys


def names(pattern: BlockPattern) -> str:
    return (
        f"{pattern.rows}x{pattern.columns}-{pattern.neighbors}-{pattern.picks}-{'causal' if pattern.causal else 'both'}"
    )


def affinity(pattern: BlockPattern, batch: int = 2, heads: int = 3, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(batch, heads, pattern.blocks, pattern.blocks, generator=draws)


def inputs(pattern: BlockPattern, queries: int, keys: int, heads: int = 3, shared: bool = False) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    shapes = [(2, queries), (1 if shared else 2, keys), (1 if shared else 2, keys)]
    return [
        torch.randn(batch, heads, pattern.blocks, rows, 4, generator=draws, dtype=torch.float64)
        for batch, rows in shapes
    ]


def dense(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    flat = [
        part.flatten(2, 3)
        for part in (query, key.expand(len(query), *key.shape[1:]), value.expand(len(query), *value.shape[1:]))
    ]
    return F.scaled_dot_product_attention(*flat, mask).view_as(query)


def test_a_grid_goes_to_blocks_and_back_and_strips_as_wide_as_the_grid_are_raster_order():
    for size, blocks in [((16, 16), (16, 4)), ((6, 20), (3, 5)), ((8, 4), (2, 2))]:
        grid = block_grid(size, blocks)
        numbers = torch.arange(size[0] * size[1]).view(1, *size)
        cut = grid.to_blocks(numbers)
        assert torch.equal(grid.from_blocks(cut), numbers) and cut.shape == (1, grid.blocks, grid.cells)
        top, left = grid.height, grid.width
        assert torch.equal(cut[0, 1].view(top, left), numbers[0, :top, left : 2 * left])
        if blocks == (16, 4):
            assert torch.equal(cut.flatten(), torch.arange(256))
    with pytest.raises(ValueError, match="multiples of 8 rows"):
        block_grid((12, 16), (8, 8))


@pytest.mark.parametrize("pattern", PATTERNS, ids=names)
def test_a_table_names_itself_its_neighbors_and_the_highest_of_the_others_and_nothing_later(pattern: BlockPattern):
    wanted = affinity(pattern)
    table, valid = pattern.select(wanted), pattern.valid
    for sample, head, block in itertools.product(range(2), range(3), range(pattern.blocks)):
        row = table[sample, head, block][valid[block]].tolist()
        assert row[0] == block and len(set(row)) == len(row)
        row_at, column_at = divmod(block, pattern.columns)
        if pattern.neighbors == "strip":
            near = {block - 2, block - 1, block} if pattern.causal else {block - 1, block, block + 1}
            near &= set(range(pattern.blocks))
        else:
            cells = itertools.product(range(row_at - 1, row_at + 2), range(column_at - 1, column_at + 2))
            near = {r * pattern.columns + c for r, c in cells if 0 <= r < pattern.rows and 0 <= c < pattern.columns}
        if pattern.causal:
            near = {other for other in near if other <= block}
        others = [b for b in range(pattern.blocks) if b not in near and (b < block or not pattern.causal)]
        ranked = sorted(others, key=lambda other: -float(wanted[sample, head, block, other]))
        assert set(row) == near | set(ranked[: pattern.picks])
    assert torch.equal(table[:, :, ~valid], pattern.select(affinity(pattern, seed=5))[:, :, ~valid])


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.picks], ids=names)
def test_a_static_table_picks_as_many_blocks_spread_over_those_left(pattern: BlockPattern):
    table = pattern.static()
    for block in range(pattern.blocks):
        row = table[0, 0, block][pattern.valid[block]].tolist()
        left = int((pattern.allowed & ~pattern.near)[block].sum())
        assert len(set(row)) == len(row) == int(pattern.near[block].sum()) + min(left, pattern.picks)


@pytest.mark.parametrize(("pattern", "queries", "keys", "shared"), SHAPES)
def test_it_is_dense_attention_under_the_expanded_mask_and_so_are_its_gradients(
    pattern: BlockPattern, queries: int, keys: int, shared: bool
):
    table = pattern.select(affinity(pattern))
    mask, whole = pattern.mask(queries, keys), pattern.expanded(table, queries, keys)
    one, two = (inputs(pattern, queries, keys, shared=shared) for _ in range(2))
    for part in (*one, *two):
        part.requires_grad_()
    sparse, expected = block_attention(*one, table, mask, chunk=4), dense(*two, whole)
    torch.testing.assert_close(sparse, expected, rtol=0, atol=1e-12)
    weights = torch.randn(sparse.shape, dtype=torch.float64)
    for loss in (sparse, expected):
        (loss * weights).sum().backward()
    for part, other in zip(one, two, strict=True):
        torch.testing.assert_close(part.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_with_all_blocks_picked_it_is_full_attention(causal: bool):
    pattern = BlockPattern(3, 4, "square", 12, causal)
    query, key, value = (part.float() for part in inputs(pattern, 5, 5))
    found = block_attention(query, key, value, pattern.select(affinity(pattern)), pattern.mask(5, 5))
    flat = [part.flatten(2, 3) for part in (query, key, value)]
    full = F.scaled_dot_product_attention(*flat, is_causal=causal).view_as(query)
    torch.testing.assert_close(found, full, rtol=0, atol=2e-6)


def test_the_order_of_a_row_and_the_size_of_the_chunks_change_nothing():
    pattern = BlockPattern(4, 4, "square", 3, False)
    query, key, value = inputs(pattern, 5, 5)
    table = pattern.select(affinity(pattern))
    interior = pattern.valid.all(1)
    turned = torch.where(interior[:, None], table.flip(-1), table)
    whole = block_attention(query, key, value, table, pattern.mask(5, 5))
    for other, chunk in ((turned, 16), (table, 1), (table, 5), (table, 100)):
        found = block_attention(query, key, value, other, pattern.mask(5, 5), chunk)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(block_attention(query, key, value, table, pattern.mask(5, 5)), whole)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.causal], ids=names)
def test_what_comes_later_changes_no_bit_of_any_block(pattern: BlockPattern):
    query, key, value = inputs(pattern, 3, 3)
    table, mask = pattern.select(affinity(pattern)), pattern.mask(3, 3)
    before = block_attention(query, key, value, table, mask)
    for block, row in itertools.product(range(pattern.blocks), range(3)):
        other = [part.clone() for part in (key, value)]
        for part in other:
            part.flatten(2, 3)[:, :, block * 3 + row + 1 :] = torch.randn(())
        after = block_attention(query, *other, table, mask)
        assert torch.equal(
            after.flatten(2, 3)[:, :, : block * 3 + row + 1], before.flatten(2, 3)[:, :, : block * 3 + row + 1]
        )


def test_gathered_blocks_are_those_of_the_table():
    blocks, table = torch.randn(2, 3, 5, 4, 6), torch.randint(5, (2, 3, 2, 7))
    found = gather_blocks(blocks, table).view(2, 3, 2, 7, 4, 6)
    for place in itertools.product(range(2), range(3), range(2), range(7)):
        assert torch.equal(found[place], blocks[place[0], place[1], table[place]])


def test_affinity_is_the_mean_over_the_pairs_of_two_blocks():
    weights = torch.rand(2, 3, 12, 20, dtype=torch.float64).softmax(-1)
    found = block_affinity(weights.view(2, 3, 4, 3, 4, 5))
    for block, other in itertools.product(range(4), range(4)):
        part = weights[:, :, block * 3 : block * 3 + 3, other * 5 : other * 5 + 5]
        torch.testing.assert_close(found[:, :, block, other], part.mean((2, 3)), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(-1), torch.full((2, 3, 4), 1 / 5, dtype=torch.float64), rtol=0, atol=1e-7)


def kept_bytes(side: int) -> int:
    """What autograd keeps of one attention over side x side blocks of 4 x 4 codes."""
    pattern = BlockPattern(side, side, "square", 3, False)
    parts = [torch.randn(1, 2, pattern.blocks, 16, 8, requires_grad=True) for _ in range(3)]
    table, mask = pattern.static(), pattern.mask(16, 16)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block_attention(*parts, table, mask)
    return sum(kept.values())


def test_what_is_kept_for_the_backward_grows_linearly_with_the_codes():
    sizes = [kept_bytes(side) for side in (8, 16, 32)]  # four times the codes each
    assert all(later / earlier < 4.4 for earlier, later in itertools.pairwise(sizes))


@pytest.mark.parametrize("causal", [False, True])
def test_watched_attention_is_dense_attention_and_tells_what_each_block_looks_at(causal: bool):
    seen: list[Tensor] = []
    parts = [torch.randn(2, 3, 4, 5, 6, dtype=torch.float64) for _ in range(3)]
    found = watched_attention(*parts, seen, causal, slice(None), slice(None))
    torch.testing.assert_close(found, dense_attention(*parts, causal), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[0].sum(-1), torch.full((2, 3, 4), 1 / 5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert not causal or torch.equal(seen[0], seen[0].tril())
