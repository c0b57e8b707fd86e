"""Each rank takes a GPU of its own; two that would share one are refused."""

import os
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from smalti.trainer.distributed import gpus, ranks


@pytest.mark.parametrize(("local_rank", "visible", "ordinal"), [(0, 1, 0), (3, 1, 0), (3, 8, 3)])
def test_a_rank_takes_its_gpu_among_those_it_sees(monkeypatch, local_rank: int, visible: int, ordinal: int):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert gpus.take(local_rank) == torch.device("cuda", ordinal)
    assert taken == [ordinal] and os.environ["LOCAL_RANK"] == str(ordinal)


def test_a_gpu_that_two_ranks_of_a_node_take_is_refused():
    store = dist.HashStore()
    gpus.claim(store, "node-0", "gpu-a")
    gpus.claim(store, "node-0", "gpu-b")
    gpus.claim(store, "node-1", "gpu-a")
    with pytest.raises(ValueError, match=r"2 ranks on node-0 share the GPU gpu-a.*start fewer"):
        gpus.claim(store, "node-0", "gpu-a")


def test_nccl_ends_a_rank_that_waits_in_vain_later_than_the_watchdog_and_sites_may_say_otherwise():
    environment = {"TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "900"}
    assert gpus.set_nccl(environment, timedelta(seconds=300)) > timedelta(seconds=300)
    assert environment == {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "900"}
    environment = {}
    limit = gpus.set_nccl(environment, timedelta(seconds=300))
    assert float(environment["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) == limit.total_seconds()


@pytest.fixture
def one_faked_gpu(monkeypatch):
    """What ``init_process_group`` was asked for."""
    asked = {}
    properties = SimpleNamespace(uuid="GPU-0")
    for name, value in {
        "is_available": lambda: True, "device_count": lambda: 1, "set_device": lambda device: None,
        "get_device_properties": lambda device: properties,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCH_NCCL_ASYNC_ERROR_HANDLING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # what the group writes there is gone afterwards
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **named: asked.update(named, backend=backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    return asked


def test_the_process_group_on_a_gpu_is_bound_to_it(one_faked_gpu):
    with ranks.process_group(300.0):
        assert one_faked_gpu["backend"] == "nccl" and one_faked_gpu["device_id"] == torch.device("cuda", 0)
        assert one_faked_gpu["timeout"] == timedelta(seconds=300) + gpus.NCCL_GRACE
        assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"


def test_ranks_that_nccl_cannot_connect_are_told_what_to_set(one_faked_gpu, monkeypatch):
    def fail(backend, **named):
        raise dist.DistBackendError("NCCL error: unhandled system error\nncclSystemError: ...")

    monkeypatch.setattr(dist, "init_process_group", fail)
    with (
        pytest.raises(ranks.ConnectError, match=r"rank 0 of 1 .* unhandled system error; .*NCCL_SOCKET_IFNAME.*DEBUG"),
        ranks.process_group(300.0),
    ):
        pass
