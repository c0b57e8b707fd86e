"""The inception score is what its definition gives in plain numpy."""

import numpy as np
import pytest
import torch

from smalti.models.metrics.inception_score import InceptionSums


def score(logits: np.ndarray) -> float:
    sums = InceptionSums(logits.shape[1], torch.device("cpu"))
    for part in np.array_split(logits, 3):
        sums.add(torch.from_numpy(part))
    return sums.score()


def test_it_is_the_mean_divergence_from_the_mean():
    logits = np.random.default_rng(0).normal(size=(30, 7)) * 3
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    divergences = (shares * np.log(shares / shares.mean(0))).sum(1)
    assert score(logits) == pytest.approx(np.exp(divergences.mean()), rel=1e-12)


def test_sure_and_evenly_spread_images_score_the_number_of_classes_and_others_less():
    assert score(np.eye(5)[np.arange(20) % 5] * 1000) == pytest.approx(5, rel=1e-12)
    assert score(np.eye(5)[np.zeros(20, int)] * 1000) == pytest.approx(1, rel=1e-12)
    assert score(np.zeros((20, 5))) == pytest.approx(1, rel=1e-12)
