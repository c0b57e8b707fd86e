"""Statistics go into files that ADM's evaluator reads, and come out of those that it writes."""

import io

import numpy as np
import pytest
import torch

from smalti.models.metrics.moments import Moments, MomentSums
from smalti.trainer.evaluation import statistics_file


def some_moments(dimensions: int = 4, samples: int = 20) -> Moments:
    sums = MomentSums(dimensions, torch.device("cpu"))
    sums.add(torch.randn(samples, dimensions, generator=torch.Generator().manual_seed(dimensions)))
    return sums.moments()


def test_what_was_written_comes_back_with_its_protocol(tmp_path):
    pooled, spatial = some_moments(4), some_moments(3)
    statistics_file.write(tmp_path / "s.npz", pooled, spatial, {"crop": "middle"})
    found = statistics_file.read(tmp_path / "s.npz")
    for one, other in ((found.pooled, pooled), (found.spatial, spatial)):
        assert one is not None and one.samples == 20
        assert torch.equal(one.mean, other.mean) and torch.equal(one.covariance, other.covariance)
    assert found.protocol == {"crop": "middle", "samples": 20}


def test_its_arrays_have_the_names_that_adm_reads(tmp_path):
    statistics_file.write(tmp_path / "s.npz", some_moments(4), some_moments(3), {})
    with np.load(tmp_path / "s.npz") as held:
        assert set(held) == {"smalti", "mu", "sigma", "mu_s", "sigma_s"}
        assert held["mu"].shape == (4,) and held["sigma_s"].shape == (3, 3)


def test_a_file_of_another_program_has_no_protocol(tmp_path):
    pooled = some_moments()
    np.savez(tmp_path / "adm.npz", mu=pooled.mean, sigma=pooled.covariance, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    found = statistics_file.read(tmp_path / "adm.npz")
    assert found.protocol is None and found.spatial is None
    assert torch.equal(found.pooled.covariance, pooled.covariance)


def test_no_file_of_the_users_is_replaced_and_one_of_ours_is(tmp_path):
    (tmp_path / "s.npz").write_text("years of notes")
    with pytest.raises(ValueError, match="move it away"):
        statistics_file.write(tmp_path / "s.npz", some_moments(), None, {})
    for number in range(2):
        statistics_file.write(tmp_path / "mine.npz", some_moments(samples=20 + number), None, {})
    assert statistics_file.read(tmp_path / "mine.npz").pooled.samples == 21


def wrong(**arrays: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"years of notes", "not a zip file"),
        (wrong(mu=np.zeros(3)), "sigma"),
        (wrong(mu=np.zeros(3), sigma=np.zeros((2, 2))), r"mu has the shape \(3,\) and sigma \(2, 2\)"),
        (wrong(mu=np.zeros(0), sigma=np.zeros((0, 0))), r"mu has the shape \(0,\)"),
        (wrong(arr_0=np.zeros((2, 4, 4, 3), np.uint8)), "mu"),
        (wrong(mu=np.full(2, np.nan), sigma=np.eye(2)), "NaN or infinity"),
        (wrong(mu=np.zeros(2), sigma=np.array([[1.0, 2.0], [0.0, 1.0]])), "not symmetric"),
        (wrong(mu=np.array(["a"]), sigma=np.eye(1)), "no file of statistics"),
        (wrong(mu=np.array([None]), sigma=np.eye(1)), "no file of statistics"),
        (wrong(mu=np.zeros(2), sigma=np.eye(2), smalti=np.frombuffer(b"[1", np.uint8)), "no file of statistics"),
        (wrong(mu=np.zeros(2), sigma=np.eye(2))[:-200], "no file of statistics"),
    ],
)
def test_files_that_hold_no_statistics_are_refused(tmp_path, data, said):
    (tmp_path / "s.npz").write_bytes(data)
    with pytest.raises(ValueError, match=said):
        statistics_file.read(tmp_path / "s.npz")


def test_a_file_that_unfolds_to_too_much_is_not_unfolded(tmp_path, monkeypatch):
    statistics_file.write(tmp_path / "s.npz", some_moments(), None, {})
    monkeypatch.setattr(statistics_file, "LARGEST", 100)
    with pytest.raises(ValueError, match="more than the 100 that are read"):
        statistics_file.read(tmp_path / "s.npz")
