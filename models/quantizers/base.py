"""What every quantizer is: features of a grid to codes and back, and the upkeep of a codebook between steps.

Shapes: B images, C channels of a code, h rows and w columns of the grid, K codes, N candidate vectors.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn


class QuantizerOutput(NamedTuple):
    """What a quantizer makes of a grid of features."""

    features: Tensor  # (B, C, h, w): the codes' vectors, with the gradient passed straight through
    indices: Tensor  # (B, h, w): int64 in [0, K)
    loss: Tensor  # (): float32, already weighted, ready to be added to the others


class CodeStatistics(NamedTuple):
    """How a batch used the codes. Sums over micro-batches and ranks are again an Observed."""

    counts: Tensor  # (K,): float32, how often each code was chosen
    sums: Tensor  # (K, C): float32, sum of the vectors that chose it; (K, 0) where the quantizer has no use for it


class Quantizer(nn.Module):
    """Base of all quantizers.

    ``forward`` and ``lookup`` are the mathematics. ``code_statistics``, ``post_step_update`` and ``init_codebook`` keep
    a codebook alive between optimizer steps; they hold no collectives. Ranks may assume: given the same arguments and
    buffers, every
    rank computes the same, so the caller sums what was observed and shares the candidates before calling them.
    Where the codebook is a trained parameter they return its new value for the caller to write, because under ZeRO
    only the engine can; while they run, the parameter must be whole.
    """

    codebook_size: int  # K
    starts_from_features: bool = False  # whether ``init_codebook`` places the codes before the first step
    reads_candidates: bool = False  # whether ``post_step_update`` does, so that they must be shared after every step

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w)."""
        raise NotImplementedError

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        raise NotImplementedError

    def anneal(self, step: int) -> None:
        """Sets what changes on a schedule to its value at this step; most quantizers have nothing that does."""

    @torch.no_grad()
    def code_statistics(self, latents: Tensor, indices: Tensor) -> CodeStatistics:
        """How these (B, C, h, w) features and their (B, h, w) codes used the codebook, on this rank alone."""
        counts = count(indices, self.codebook_size)
        return CodeStatistics(counts, counts.new_zeros(self.codebook_size, 0))

    @torch.no_grad()
    def post_step_update(self, observed: CodeStatistics, candidates: Tensor, seed: int) -> Tensor | None:
        """Called once after every optimizer step, on every rank, with the same arguments.

        Args:
            observed: sums over the step's micro-batches and all ranks.
            candidates: (N, C) recent features of any ranks, from which idle codes are revived.
            seed: of the choice among the candidates; differs from step to step.

        Returns:
            The whole new (K, C) codebook to be written into the parameter, or None when there is nothing to write.
        """
        return None

    @torch.no_grad()
    def replace_dead_codes(self, dead: Tensor, candidates: Tensor, seed: int) -> Tensor | None:
        """Moves the codes that ``dead`` (K,) marks onto candidates; returns as ``post_step_update`` does.

        Only quantizers whose config says ``can_replace_codes`` have codes that can be moved one by one.
        """
        return None

    @torch.no_grad()
    def init_codebook(self, candidates: Tensor, seed: int) -> Tensor | None:
        """Places the codes among (N, C) features before the first step; returns as ``post_step_update`` does.

        Called where ``starts_from_features`` says so.
        """
        return None


class Codebook(nn.Module):
    """K vectors that train as a parameter.

    ``forward`` applies a function to the whole table, because under ZeRO stage 3 a partitioned parameter is whole
    only inside the forward of the module that owns it.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, use: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> Tensor | tuple[Tensor, ...]:
        """``use`` of the (K, C) table."""
        return use(self.weight)


def count(indices: Tensor, codes: int) -> Tensor:
    """How often each of K codes occurs, (K,) float32."""
    # Not bincount, which makes the host wait for the largest index.
    flat = indices.flatten()
    counts = torch.zeros(codes, dtype=torch.int64, device=flat.device)
    return counts.scatter_add_(0, flat, torch.ones_like(flat)).float()


def flatten_grid(features: Tensor) -> Tensor:
    """(B, C, h, w) to (B*h*w, C) in float32, rows first."""
    return rearrange(features, "b c h w -> (b h w) c").float()


def unflatten_grid(rows: Tensor, like: Tensor) -> Tensor:
    """(B*h*w, C) or (B*h*w,) to the (B, C, h, w) or (B, h, w) grid of ``like``, which is (B, _, h, w)."""
    b, _, h, w = like.shape
    pattern = "(b h w) c -> b c h w" if rows.dim() == 2 else "(b h w) -> b h w"
    return rearrange(rows, pattern, b=b, h=h, w=w)


def nearest(rows: Tensor, book: Tensor) -> Tensor:
    """The number of the code nearest to each of (N, C) vectors, (N,), by Euclidean distance in float32."""
    with torch.autocast(rows.device.type, enabled=False):  # bfloat16 ties too many codes
        rows, book = rows.detach().float(), book.detach().float()
        # |z - e|^2 without |z|^2, which is the same for every code: |e|^2 - 2 z.e in one call.
        return torch.addmm(book.square().sum(1), rows, book.t(), alpha=-2).argmin(1)


def straight_through(quantized: Tensor, z: Tensor) -> Tensor:
    """The value of ``quantized`` with the gradient of ``z``: Bengio et al. 2013; in the type of ``z``."""
    return z + (quantized.to(z.dtype) - z).detach()
