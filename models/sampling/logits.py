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
        logits = logits.masked_fill(_outside_nucleus(logits, config.top_p), -torch.inf)
    return logits


def choose(logits: Tensor, noise: Tensor | None, config: SamplingConfig) -> Tensor:
    """The (n,) codes: the likeliest when greedy, else a draw by the (n, K) Gumbel noise."""
    if config.greedy or noise is None:
        return logits.argmax(dim=1)
    return (filter_logits(logits, config) + noise).argmax(dim=1)


def _outside_nucleus(logits: Tensor, mass: float) -> Tensor:
    """(n, K) bool: codes in front of which at least ``mass`` is already held, but never the most likely one.

    Summed as whole multiples of 2^-52, so that the sums are exact, whatever the number of rows and their order.
    """
    ranked, codes = logits.sort(dim=1, descending=True, stable=True)
    shares = (ranked.softmax(dim=1) * 2.0**52).long()
    dropped = shares.cumsum(dim=1) - shares >= mass * 2.0**52
    dropped[:, 0] = False
    return dropped.scatter(1, codes, dropped)
