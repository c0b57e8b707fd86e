"""Each rank takes a GPU of its own; two that would share one are refused."""

import os

import pytest
import torch
import torch.distributed as dist

from smalti.trainer.distributed import gpus


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
