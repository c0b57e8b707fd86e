"""Ranks are found under every launcher, and what they agree on is what all of them hold."""

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import processes
import pytest
import torch
from torch import Tensor

from smalti.trainer.distributed import ranks


def test_outside_a_group_every_agreement_is_with_oneself():
    assert (ranks.rank(), ranks.world()) == (0, 1)
    assert ranks.all_reduce_metrics({"loss": torch.tensor(2.0)}) == {"loss": 2.0}
    assert ranks.any_rank(True) and not ranks.any_rank(False)
    assert ranks.broadcast_object({"a": 1}) == {"a": 1}
    assert torch.equal(ranks.all_gather(torch.arange(3)), torch.arange(3))
    assert torch.equal(ranks.all_reduce_sum(torch.arange(3.0)), torch.arange(3.0))


def agreements() -> dict[str, Any]:
    """Everything that ranks say to each other, in one job: rank 0 holds 1, rank 1 holds 2."""
    mine = torch.tensor([1.0 + ranks.rank()])
    names = ("a", "b") if ranks.rank() == 0 else ("b", "a")  # each rank in an order of its own
    found = {
        "place": [ranks.rank(), ranks.world()],
        "total": ranks.all_reduce_sum(mine).item(),
        "mean": ranks.all_reduce_metrics({name: mine[0] * (1 if name == "a" else 10) for name in names}),
        "gathered": ranks.all_gather(torch.tensor([ranks.rank(), 7])),
        "one says yes": ranks.any_rank(ranks.rank() == 1),
        "nobody says yes": ranks.any_rank(False),
        "from first": ranks.broadcast_object({"rank": ranks.rank()} if ranks.rank() == 0 else None),
        "left alone": mine.item(),
    }
    ranks.all_reduce_mean_(mine)
    found["average_"] = mine.item()
    ranks.all_reduce_sum_(mine)
    found["total_"] = mine.item()
    with ranks.Interrupt() as interrupt:
        found["before the signal"] = interrupt.stop_requested()
        if ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        found["after it"] = interrupt.stop_requested()
    return found


def test_two_ranks_agree():
    results = processes.run(agreements, 2)
    assert [result.pop("place") for result in results] == [[0, 2], [1, 2]]
    assert [result.pop("left alone") for result in results] == [1.0, 2.0]
    for result in results:
        assert result.pop("gathered").tolist() == [0, 7, 1, 7]
        assert result == {
            "total": 3.0,
            "mean": {"a": 1.5, "b": 15.0},
            "one says yes": True,
            "nobody says yes": False,
            "from first": {"rank": 0},
            "average_": 1.5,
            "total_": 3.0,
            "before the signal": False,
            "after it": True,
        }


def weighed(parts: list[Tensor], weights: list[Tensor]) -> Tensor:
    """A loss in which every rank uses the sum over ranks in its own way, and its own part besides."""
    whole = torch.stack(parts).sum(0)
    return torch.stack([(w * whole.square()).sum() + part.sum() for w, part in zip(weights, parts, strict=True)]).sum()


def operands() -> tuple[list[Tensor], list[Tensor]]:
    draws = torch.Generator().manual_seed(1)
    drawn = torch.randn(4, 5, generator=draws, dtype=torch.float64)
    return list(drawn[:2].clone()), list(drawn[2:].clone())


def gradient_of_total() -> Tensor:
    parts, weights = operands()
    mine = parts[ranks.rank()].requires_grad_()
    whole = ranks.all_reduce_sum(mine)
    ((weights[ranks.rank()] * whole.square()).sum() + mine.sum()).backward()
    assert mine.grad is not None
    return mine.grad


def test_the_gradient_of_a_sum_over_ranks_is_that_of_one_process_holding_all_parts():
    parts, weights = operands()
    for part in parts:
        part.requires_grad_()
    weighed(parts, weights).backward()
    for rank, gradient in enumerate(processes.run(gradient_of_total, 2)):
        assert torch.allclose(gradient, parts[rank].grad, rtol=1e-12)


def test_an_interrupt_puts_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    with ranks.Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.raised == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def heard_ctrl_c():
    """Python's own answer to Ctrl-C, which a program that a shell has put into the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_ctrl_c")
def test_a_second_ctrl_c_is_not_caught():
    with ranks.Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.raised == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def what_each_rank_finds(wrong: list[int]) -> str:
    """What a rank hears of work that fails on some."""

    def work() -> str:
        if ranks.rank() in wrong:
            raise OSError(f"no file for rank {ranks.rank()}")
        return f"found by {ranks.rank()}"

    try:
        return ranks.agreed(work)
    except ranks.AgreedError as error:
        return str(error)


def test_work_that_fails_on_one_rank_fails_on_all_with_its_words():
    assert processes.run(what_each_rank_finds, 2, []) == ["found by 0", "found by 1"]
    for said in processes.run(what_each_rank_finds, 2, [1]):
        assert said.startswith("rank 1 on ") and said.endswith(": no file for rank 1")


def test_alone_an_error_is_told_without_its_rank():
    assert what_each_rank_finds([0]) == "no file for rank 0"


def test_a_process_alone_takes_a_port_of_its_own_whatever_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        alone = "from smalti.trainer.distributed import ranks\nwith ranks.process_group(60): print(ranks.world())"
        ended = subprocess.run([sys.executable, "-c", alone], env=environment, capture_output=True, text=True)
    assert ended.stdout.split() == ["1"], ended.stderr
