"""What happens to a generator's codebook between optimizer steps, the same on all ranks.

Shapes: B images of a micro-batch, C channels of a code, h rows and w columns of the grid, K codes, N candidates.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ...models.quantizers import CodeStatistics, Quantizer, RollingUse, perplexity, usage
from ...models.quantizers.base import Codebook
from ..distributed import ranks, sharded_parameters
from ..distributed.engine_protocol import ShardedEngine
from ..keyed_random import mix

CANDIDATES = 2048  # features of a step, over all ranks, among which codes are placed


class EncodedBatch(NamedTuple):
    """What a micro-batch leaves for the codebook."""

    latents: Tensor  # (B, C, h, w), detached
    indices: Tensor  # (B, h, w)


class CodebookUpdater:
    """Places codes before the first step, keeps their averages, moves idle ones, and knows how well they are used.

    Every rank makes one and calls the same methods with its own features.

    Args:
        engine: of the generator, which alone can write a trained codebook under ZeRO.
        window: of the rolling use, in steps.
    """

    def __init__(self, engine: ShardedEngine, seed: int, window: int) -> None:
        self.engine = engine
        self.seed = seed
        self.rolling = RollingUse(self.quantizer.codebook_size, window).to(ranks.device())

    @property
    def quantizer(self) -> Quantizer:
        """The generator's quantizer."""
        quantizer: Quantizer = self.engine.module.quantize
        return quantizer

    def init_from_features(self, latents: list[Tensor]) -> None:
        """Before the first step: the codebook among the features of its images, (B, C, h, w) a micro-batch."""
        with sharded_parameters.gathered_parameters(self.quantizer.parameters()):
            book = self.quantizer.init_codebook(sample_features(latents), mix(self.seed, 0))
        if book is not None:
            self._write(book, torch.ones(len(book), dtype=torch.bool, device=book.device))

    def update(self, step: int, coded: list[EncodedBatch], revive: bool) -> dict[str, Tensor]:
        """After a step: statistics over all ranks, averages of the codebook, revival of idle codes.

        Args:
            revive: move every code that was idle for the whole window onto features of this step.

        Returns:
            The use of the step and of the window, the same on all ranks.
        """
        observed = _over_ranks([self.quantizer.code_statistics(c.latents, c.indices) for c in coded])
        counts = observed.counts
        self.rolling.update(counts)
        latents = [c.latents for c in coded]
        read = revive or self.quantizer.reads_candidates
        features = sample_features(latents) if read else latents[0].new_zeros(0, latents[0].shape[1])
        self._update(lambda: self.quantizer.post_step_update(observed, features, mix(self.seed, step + 1)))
        idle = self.rolling.age >= self.rolling.window
        if revive and idle.any():
            self._update(lambda: self.quantizer.replace_dead_codes(idle, features, mix(self.seed, step + 1, 1)))
        return {
            "codebook/perplexity": perplexity(counts),
            "codebook/usage": usage(counts),
            "codebook/rolling_perplexity": self.rolling.perplexity(),
            "codebook/rolling_usage": self.rolling.usage(),
            "codebook/dead_codes": self.rolling.dead(),
        }

    def _update(self, change: Callable[[], Tensor | None]) -> None:
        """Let the quantizer move its codes; the optimizer's state of the trained ones that moved starts anew."""
        with sharded_parameters.gathered_parameters(self.quantizer.parameters()):
            before = [p.detach().clone() for p in self.quantizer.parameters()]
            book = change()
        if book is not None:
            self._write(book, (book != before[0]).any(1))

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.rolling.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.rolling.load_state_dict(state)

    def _write(self, book: Tensor, moved: Tensor) -> None:
        """Write a trained codebook's new value where its optimizer keeps it; ``moved`` (K,) marks what moved."""
        owner = next(module for module in self.quantizer.modules() if isinstance(module, Codebook))
        sharded_parameters.overwrite_parameter(self.engine, owner.weight, book, moved.nonzero().flatten())


def _over_ranks(each: list[CodeStatistics]) -> CodeStatistics:
    """The sum over this rank's micro-batches and all ranks, in one message."""
    counts, sums = (torch.stack(parts).sum(0) for parts in zip(*each, strict=True))
    if not sums.numel():
        return CodeStatistics(ranks.all_reduce_sum_(counts), sums)
    both = ranks.all_reduce_sum_(torch.cat([counts[:, None], sums], dim=1))  # (K, 1 + C)
    return CodeStatistics(both[:, 0], both[:, 1:])


def sample_features(latents: list[Tensor]) -> Tensor:
    """Features of a step, over all ranks, evenly spread over it: (N, C) float32, the same on every rank.

    Their order is that of the samples in the step, so that the number of ranks does not change them.

    Args:
        latents: (B, C, h, w) of each of this rank's micro-batches.
    """
    mine = rearrange(torch.stack(latents).float(), "a b c h w -> a (b h w) c")
    every = -(-mine.shape[0] * mine.shape[1] * ranks.world() // CANDIDATES)
    mine = mine[:, ::every].contiguous()
    return rearrange(ranks.all_gather(mine), "(r a) n c -> (a r n) c", a=mine.shape[0])
