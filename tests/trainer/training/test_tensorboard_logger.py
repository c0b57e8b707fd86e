"""TensorBoard has the history that the run's folder has, however often the run was stopped and restored."""

from pathlib import Path

import pytest
import torch

from smalti.trainer.training import tensorboard_logger
from smalti.trainer.training.metrics import Metrics

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def work(run: Path, start: int, end: int, scale: float) -> Metrics:
    metrics = Metrics(run, 100, None, {}, tensorboard=True)
    metrics.rewind(start)
    for step in range(start + 1, end + 1):
        metrics.add({"loss": torch.tensor(scale * step)})
        metrics.write(step, {})
    return metrics


def test_a_run_that_goes_on_has_every_step_once(tmp_path: Path):
    work(tmp_path, 0, 6, 1.0)  # never closed, as after a kill
    second = work(tmp_path, 4, 7, 10.0)
    second.write_images(7, {"rebuilt": torch.zeros(4, 6, 3, dtype=torch.uint8)})
    second.write_arrays(7, {"nll_by_position": torch.eye(2), "code_use": torch.tensor([5.0, 0.0, 2.0])})
    second.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0), (7, 70.0)]
    assert set(found.Tags()["images"]) == {"rebuilt", "nll_by_position"}
    (use,) = found.Histograms("code_use")
    assert use.step == 7 and use.histogram_value.num == 7
    # Two empty bins stand around those of TensorBoard's reader, which then has the edges of all.
    bins = dict(zip(use.histogram_value.bucket_limit, use.histogram_value.bucket, strict=True))
    assert (bins[1.0], bins[2.0], bins[3.0]) == (5.0, 0.0, 2.0)


def test_without_the_package_the_run_is_refused_with_the_extra_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tensorboard_logger.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'smalti\[tensorboard\]'"):
        Metrics(tmp_path, 100, None, {}, tensorboard=True)
