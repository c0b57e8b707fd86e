"""Where codes go that nobody chooses, and where all codes start: among the features they are to stand for.

Everything here is the same on every rank that is given the same features and seed: random numbers are drawn on the
CPU, and sums are matrix products, because scattered additions on a GPU come in any order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import nearest

ROUNDS = 16  # of seeding; each places a sixteenth of the codes
ROWS = 4096  # vectors handled at a time in a Lloyd iteration, to bound the (ROWS, K) table
JITTER = 0.01  # of the features' deviation, where one feature has to start several codes


def draw(candidates: Tensor, wanted: int, seed: int) -> Tensor:
    """``wanted`` of the (N, C) candidates, each once while they last, then again with a small jitter."""
    generator = torch.Generator().manual_seed(seed)
    available = len(candidates)
    rounds = -(-wanted // available)
    order = torch.cat([torch.randperm(available, generator=generator) for _ in range(rounds)])[:wanted]
    noise = torch.randn(wanted, candidates.shape[1], generator=generator)
    noise[:available] = 0
    scale = JITTER * candidates.float().std(0, unbiased=False)
    return candidates.float()[order.to(candidates.device)] + scale * noise.to(candidates.device)


def replace_dead_codes(
    book: Tensor, idle: Tensor, replace_dead_after: int, candidates: Tensor, seed: int
) -> Tensor | None:
    """Moves the codes that were idle for more than ``replace_dead_after`` steps onto candidates.

    Args:
        book: (K, C) codebook, left alone.
        idle: (K,) steps since each code was last chosen; set to 0 in place for the revived.
        candidates: (N, C) recent features.

    Returns:
        The new (K, C) codebook in float32, or None when no code was idle for so long.
    """
    dead = idle > replace_dead_after
    if not len(candidates) or not dead.any():
        return None
    idle[dead] = 0
    return replaced(book, dead, candidates, seed)


def replaced(book: Tensor, dead: Tensor, candidates: Tensor, seed: int) -> Tensor:
    """The (K, C) codebook in float32 with candidates in place of the codes that ``dead`` (K,) marks."""
    revived = book.detach().float().clone()
    revived[dead] = draw(candidates, int(dead.sum()), seed).to(revived.device)
    return revived


def k_means(candidates: Tensor, codes: int, seed: int, iterations: int = 10) -> Tensor:
    """(K, C) means of the (N, C) candidates: Lloyd's iterations from scattered seeds.

    Seeds are drawn in rounds, far candidates first, as in Bahmani et al. 2012 ("Scalable K-Means++"). With fewer
    candidates than codes the codes are the candidates, repeated with a small jitter.
    """
    rows = candidates.detach().float()
    if len(rows) <= codes:
        return draw(rows, codes, seed)
    book = kmeans_parallel_init(rows, codes, seed)
    for _ in range(iterations):
        book = lloyd(rows, book)
    return book


def kmeans_parallel_init(rows: Tensor, codes: int, seed: int) -> Tensor:
    """``codes`` different rows, drawn in rounds with odds that grow as the square of the distance to those drawn."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(rows), (1,), generator=generator)
    gaps = torch.full((len(rows),), float("inf"), dtype=torch.float64)
    newest = chosen
    while len(chosen) < codes:
        seeds = rows[newest.to(rows.device)]
        closest = seeds[nearest(rows, seeds)]
        gaps = torch.minimum(gaps, (rows - closest).square().sum(1).double().cpu())
        wanted = min(-(-codes // ROUNDS), codes - len(chosen))
        # Repeated features have no gap left; a speck of odds lets them fill up what remains.
        odds = (gaps + 1e-12).index_fill(0, chosen, 0.0)
        newest = torch.multinomial(odds, wanted, generator=generator)
        chosen = torch.cat([chosen, newest])
    return rows[chosen.to(rows.device)]


def lloyd(rows: Tensor, book: Tensor) -> Tensor:
    """One iteration: every code becomes the mean of the rows nearest to it; a code without rows stays."""
    sums, counts = torch.zeros_like(book), book.new_zeros(len(book))
    for part in torch.split(rows, ROWS):
        members = F.one_hot(nearest(part, book), len(book)).to(book.dtype)  # (ROWS, K)
        sums += members.t() @ part
        counts += members.sum(0)
    means = sums / counts.clamp(min=1)[:, None]
    return torch.where(counts[:, None] > 0, means, book)
