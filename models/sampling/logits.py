"""From logits to a code. Shapes: n places, K codes."""

import torch
from torch import Tensor

from .config import SamplingConfig


def apply_guidance(conditioned: Tensor, unconditional: Tensor, scales: Tensor) -> Tensor:
    """The (n, K) logits of classifier-free guidance from those with and without the condition; scales are (n,)."""
    return unconditional + scales[:, None] * (conditioned - unconditional)


def filter_logits(logits: Tensor, config: SamplingConfig) -> Tensor:
    """(n, K) logits at the config's temperature, minus infinity for codes that are not to be drawn.

    First the k most likely codes are kept, then among them the fewest that hold the probability p (Holtzman et al.
    2020); the most likely code always stays.
    """
    logits = logits.double() / config.temperature
    if config.top_k is not None and config.top_k < logits.shape[1]:
        least = logits.topk(config.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if config.top_p is not None:
        # Row by row: a batched cumulative sum may round otherwise for another number of rows.
        logits = torch.stack([_nucleus(row, config.top_p) for row in logits])
    return logits


def choose(logits: Tensor, noise: Tensor | None, config: SamplingConfig) -> Tensor:
    """The (n,) codes: the likeliest when greedy, else a draw by the (n, K) Gumbel noise."""
    if config.greedy or noise is None:
        return logits.argmax(dim=1)
    return (filter_logits(logits, config) + noise).argmax(dim=1)


def _nucleus(logits: Tensor, mass: float) -> Tensor:
    """(K,) logits; the codes in front of which at least ``mass`` is already held fall out."""
    ranked, codes = logits.sort(descending=True, stable=True)
    probabilities = ranked.softmax(dim=0)
    before = probabilities.cumsum(dim=0) - probabilities
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(0, codes, before >= mass)
    dropped[codes[0]] = False
    return logits.masked_fill(dropped, -torch.inf)
