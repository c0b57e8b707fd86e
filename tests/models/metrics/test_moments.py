"""Moments are those of numpy, and their distance is the one that scipy's root of a matrix gives."""

import numpy as np
import pytest
import scipy.linalg
import torch

from smalti.models.metrics.moments import Moments, MomentSums, frechet_distance


def features(samples: int, dimensions: int, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return draws.normal(size=(samples, dimensions)) @ draws.normal(size=(dimensions, dimensions)) + draws.normal()


def moments(values: np.ndarray) -> Moments:
    sums = MomentSums(values.shape[1], torch.device("cpu"))
    for part in np.array_split(values, 3):
        sums.add(torch.from_numpy(part))
    return sums.moments()


def by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    gap = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return float(gap + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real))


def test_moments_of_a_stream_are_those_of_the_whole_set():
    values = features(40, 7, 0)
    found = moments(values)
    assert found.samples == 40
    assert np.allclose(found.mean, values.mean(0), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(values, rowvar=False), rtol=1e-12, atol=1e-12)


def test_the_frechet_distance_is_that_of_scipy():
    one, other = features(200, 12, 1), features(150, 12, 2)
    assert frechet_distance(moments(one), moments(other)) == pytest.approx(by_scipy(one, other), rel=1e-9)


def test_a_set_has_no_distance_to_itself_and_a_shift_has_its_square():
    one = features(60, 5, 3)
    assert frechet_distance(moments(one), moments(one)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(moments(one + 2.0), moments(one)) == pytest.approx(5 * 2.0**2, rel=1e-10)


def test_in_one_dimension_it_is_the_closed_form():
    one, other = (Moments(9, torch.tensor([m]).double(), torch.tensor([[s * s]]).double()) for m, s in ((1, 2), (4, 7)))
    assert frechet_distance(one, other) == pytest.approx(3**2 + 5**2, rel=1e-12)


def test_fewer_samples_than_features_lose_no_digits():
    """Both sets lie in a space of two dimensions inside fifty, where the distance is exact."""
    axes = np.linalg.qr(np.random.default_rng(4).normal(size=(50, 50)))[0][:, :2]
    one, other = features(9, 2, 5), features(9, 2, 6)
    inside = frechet_distance(moments(one @ axes.T), moments(other @ axes.T))
    assert inside == pytest.approx(by_scipy(one, other), rel=1e-10)


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        sums = MomentSums(2, torch.device("cpu"))
        sums.add(torch.ones(1, 2))
        sums.moments()
