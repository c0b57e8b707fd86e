"""What ``deterministic: true`` sets for a run, and that it leaves no trace behind it."""

import os

import pytest
import torch

from smalti.trainer.distributed.determinism import CUBLAS_WORKSPACE, deterministic_algorithms


def settings() -> tuple[bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_operators_are_deterministic_in_the_block_alone(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with deterministic_algorithms(True):
        assert settings() == (True, True, False, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == CUBLAS_WORKSPACE
    assert settings() == before


def test_what_a_user_says_about_cublas_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_nothing_is_set_where_nobody_asks(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = settings()
    with deterministic_algorithms(False):
        assert settings() == before
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_an_error_in_the_block_leaves_no_trace_either():
    before = settings()
    with pytest.raises(ZeroDivisionError), deterministic_algorithms(True):
        raise ZeroDivisionError
    assert settings() == before
