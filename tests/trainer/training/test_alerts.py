"""A run says when its numbers are not finite and when data or a rank are slow, and names the rank by its host."""

import json
import math
from pathlib import Path

import pytest
import torch

from smalti.trainer.training.alerts import RunAlerts
from smalti.trainer.training.metrics import Metrics, history

HOSTS = ["n1", "n1", "n2", "n2"]


def test_a_slow_rank_is_named_by_its_host_when_it_is_slow_at_two_lines():
    alerts = RunAlerts(HOSTS)
    assert alerts.found({}, [0.0, 0.1, 0.5, 0.1]) == {}
    said = {"slow_rank": "rank 2 on n2 waits 60% of its time for data, the median rank 10%"}
    assert alerts.found({}, [0.0, 0.1, 0.6, 0.1]) == said
    assert alerts.found({}, [0.0, 0.1, 0.2, 0.1]) == {}


def test_where_most_ranks_wait_it_is_the_loader_that_is_slow():
    alerts = RunAlerts(HOSTS)
    alerts.found({}, [0.3, 0.4, 0.9, 0.3])
    said = {"slow_loader": "ranks wait 35% of their time for data; raise train_data.num_workers"}
    assert alerts.found({}, [0.3, 0.4, 0.9, 0.3]) == said


def test_numbers_that_are_not_finite_and_steps_that_were_skipped_are_one_alert():
    alerts = RunAlerts(["n1"])
    assert alerts.found({"nll": math.nan, "lr": 0.1}, [0.0]) == {"not_finite": "not finite: nll"}
    skipped = {"not_finite": "steps were skipped for gradients that are not finite"}
    assert alerts.found({"skipped": 0.5}, [0.0]) == skipped
    assert alerts.found({"nll": 1.0}, [0.0]) == {}


def test_alerts_begin_and_end_once_and_those_of_the_monitors_only_begin_here():
    alerts = RunAlerts(["n1"])
    own = {"not_finite": "not finite: nll"}
    begun, over = alerts.changes(own, {"alert_codebook_collapsed": 1.0})
    assert begun == {"codebook_collapsed": "codebook collapsed", "not_finite": "not finite: nll"} and over == []
    assert alerts.changes(own, {"alert_codebook_collapsed": 1.0}) == ({}, [])
    assert alerts.changes({}, {}) == ({}, ["not_finite"])


def test_an_alert_is_a_line_on_stderr_and_in_the_metrics_while_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    writer = Metrics(tmp_path, 100, None, {})
    writer.rewind(0)
    for step, loss in ((10, 1.0), (20, math.nan), (30, 2.0)):
        writer.add({"loss": torch.tensor(loss)})
        writer.write(step, {})
    assert [line.get("train/alert_not_finite") for line in history(tmp_path)] == [None, 1.0, None]
    assert capsys.readouterr().err.splitlines() == [
        "ALERT at step 20: not finite: loss (not_finite); see docs/training.md",
        "step 30: not_finite is over",
    ]
    assert len(json.loads((tmp_path / "ranks.json").read_text())["data_wait"]) == 1
