"""Validation figures as streaming sums that are reduced over ranks once, at the end."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.pixel_range import to_levels
from ..data.collate import Batch
from ..distributed import ranks
from ..distributed.watchdog import heartbeat


class EvalBatch(NamedTuple):
    """A batch, and whether this rank's figures of it count."""

    batch: Batch
    counts: bool


def equal_length_batches(batches: Iterable[Batch]) -> Iterator[EvalBatch]:
    """The rank's batches, prolonged so that every rank has the same number of them.

    A partitioned network gathers its weights in every forward, so a rank that has run out repeats its last batch, which
    does not count, until all have. A rank that has none, as where none of its samples can be used, gets another's.
    Nor does a batch without keys count, which a rank without samples of its own has. Every rank must iterate to the
    end.

    Raises:
        ValueError: no rank has a batch.
    """
    mine = iter(batches)
    own = next(mine, None)
    batch = _own_or_lent(own)
    counts = own is not None and bool(own["key"])
    while ranks.any_rank(counts):
        yield EvalBatch(batch, counts)
        heartbeat()
        following = next(mine, None) if counts else None
        counts = following is not None
        batch = following or batch


def first_batch(batches: Iterable[Batch]) -> Batch:
    """The rank's first batch; another's where it has none. Every rank must call this.

    Raises:
        ValueError: no rank has a batch.
    """
    return _own_or_lent(next(iter(batches), None))


def _own_or_lent(own: Batch | None) -> Batch:
    """The rank's own batch or, where it has none, the first that another has."""
    if not ranks.any_rank(own is None) and own is not None:
        return own
    batches = [batch for batch in ranks.all_gather_object(own) if batch is not None]
    if not batches:
        raise ValueError("no validation sample can be used; the log names what is wrong with each")
    return batches[0] if own is None else own


def psnr(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, on the values a PNG would hold.

    Args:
        real, rebuilt: (B, 3, H, W) in [-1, 1]; what lies outside is clamped.

    Returns:
        (B,) float64; equal images give 20 log10(255) + 10 log10(2), the value of an error of half a gray level.
    """
    error = (to_levels(real.double()) - to_levels(rebuilt.double())).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255.0**2 / error.clamp(min=0.5))


class MetricSums:
    """Named sums and how many things each is over, reduced over ranks by ``means``."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Take in one value for each thing, of any shape."""
        total = values.double().sum()
        pair = torch.stack([total, torch.full_like(total, values.numel())])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self) -> dict[str, float]:
        """The mean of every name over all ranks; NaN of no things at all.

        Every rank must call this. A rank without a name, as one that had no samples, adds nothing to it.
        """
        names = sorted(set().union(*ranks.all_gather_object(sorted(self._sums))))
        if not names:
            return {}
        nothing = torch.zeros(2, dtype=torch.float64, device=ranks.device())
        pairs = ranks.all_reduce_sum_(torch.stack([self._sums.get(name, nothing) for name in names]))
        return {name: (pair[0] / pair[1]).item() for name, pair in zip(names, pairs, strict=True)}


def likelihood(nll: float, codes: int) -> dict[str, float]:
    """The figures in which a prior's validation likelihood is read.

    Returns:
        nats and bits per code, the perplexity, and the share of ln K: 1 says that the prior knows nothing.
    """
    return {
        "nll": nll,
        "bits_per_code": nll / math.log(2),
        "perplexity": math.exp(nll),
        "normalized_nll": nll / math.log(codes),
    }
