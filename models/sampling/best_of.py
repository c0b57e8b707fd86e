"""The best of several samples: ranked by likelihood, or by a classifier that looks at the images.

Shapes: B images, (H, W) their grids of codes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .gumbel_noise import mix
from .sampler import GridRequest, SamplingState, sample

Scorer = Callable[[SamplingState], Tensor]
"""Gives every image of a finished sample a (B,) mark; the highest wins."""


def likelihood(state: SamplingState) -> Tensor:
    """(B,) log-likelihood of everything that was sampled, in nats."""
    return state.scores.sum(dim=(1, 2))


def classifier_score(
    decode: Callable[[Tensor], Tensor], classifier: Callable[[Tensor], Tensor], classes: Tensor
) -> Scorer:
    """Marks by how sure a classifier is of the wanted class: rejection sampling as in Razavi et al. 2019, section 3.4.

    Args:
        decode: (B, H, W) codes to (B, 3, h, w) images in [-1, 1].
        classifier: such images to (B, classes) logits.
        classes: (B,) int64, the wanted class of each image.
    """

    def judge(state: SamplingState) -> Tensor:
        with torch.no_grad():
            logits = classifier(decode(state.codes))
        return class_log_likelihood(logits, classes.to(logits.device))

    return judge


def class_log_likelihood(logits: Tensor, classes: Tensor) -> Tensor:
    """(B,) log-likelihood in nats that a classifier with these (B, classes) logits gives to the (B,) wanted classes."""
    return logits.float().log_softmax(dim=1).gather(1, classes[:, None])[:, 0]


def best_of(wanted: GridRequest, candidates: int, scorer: Scorer = likelihood) -> SamplingState:
    """Sample every image ``candidates`` times and keep the one with the highest mark, the first among equals.

    An acceptance rate a of the literature is 1 / a candidates. Candidate 0 is what ``sample`` samples with the same
    seed.

    Raises:
        ValueError: fewer than one candidate, and as ``sample``.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    chosen = sample(wanted)
    marks = scorer(chosen)
    for candidate in range(1, candidates):
        state = sample(wanted._replace(seed=mix(wanted.seed, candidate)))
        mark = scorer(state)
        better = (mark > marks)[:, None, None]
        marks = torch.maximum(marks, mark)
        codes = torch.where(better, state.codes, chosen.codes)
        chosen = chosen._replace(codes=codes, scores=torch.where(better, state.scores, chosen.scores))
    return chosen
