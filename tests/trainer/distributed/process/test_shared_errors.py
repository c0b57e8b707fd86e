"""An error that all ranks meet is said by rank 0; that of one rank is never lost."""

import signal
import socket

import pytest

from smalti.trainer.distributed import signals
from smalti.trainer.distributed.process import shared_errors


@pytest.fixture
def rank_1(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process is rank 1 of 2, and nobody listens where the ranks meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shared_errors, "PATIENCE_S", 0.3)
    return monkeypatch


def test_a_rank_is_silent_when_rank_0_is_gone_too(rank_1: pytest.MonkeyPatch):
    assert shared_errors.said_by_rank_0()


def test_a_rank_speaks_for_itself_while_rank_0_lives(rank_1: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as store:
        rank_1.setenv("MASTER_PORT", f"{store.getsockname()[1]}")
        assert not shared_errors.said_by_rank_0()


def test_a_rank_that_its_launcher_ends_is_silent(rank_1: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as store:
        rank_1.setenv("MASTER_PORT", f"{store.getsockname()[1]}")
        answers = iter([None])
        rank_1.setattr(signals, "raised", lambda: next(answers, signal.SIGTERM))
        assert shared_errors.said_by_rank_0()


def test_a_request_to_leave_that_came_before_the_error_hides_nothing(rank_1: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as store:
        rank_1.setenv("MASTER_PORT", f"{store.getsockname()[1]}")
        rank_1.setattr(signals, "raised", lambda: signal.SIGTERM)
        assert not shared_errors.said_by_rank_0()


@pytest.mark.parametrize("taken", ["RANK", "MASTER_ADDR"])
def test_without_other_ranks_to_be_found_everybody_speaks(rank_1: pytest.MonkeyPatch, taken: str):
    rank_1.delenv(taken)
    assert not shared_errors.said_by_rank_0()


def test_rank_0_speaks_at_once(rank_1: pytest.MonkeyPatch):
    rank_1.setenv("RANK", "0")
    rank_1.setattr(shared_errors, "PATIENCE_S", 1e9)
    assert not shared_errors.said_by_rank_0()
