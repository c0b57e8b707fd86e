"""Which GPU a rank takes, and that no two ranks of a node take the same one."""

import os
import socket
from typing import Any

import torch


def take(local_rank: int) -> torch.device:
    """Make the rank's GPU the current one, among those that this process sees.

    A scheduler that binds one GPU to each task leaves every rank with a device 0 of its own, whatever its local rank.
    DeepSpeed reads the local rank again, so that LOCAL_RANK is rewritten where the two differ.
    """
    ordinal = local_rank % torch.cuda.device_count()
    os.environ["LOCAL_RANK"] = str(ordinal)
    torch.cuda.set_device(ordinal)
    return torch.device("cuda", ordinal)


def claim(store: Any, host: str, gpu: str) -> None:
    """Note in the job's store that a rank has taken a GPU. Every rank must call this once.

    Raises:
        ValueError: another rank of the node has it: NCCL would fail later, and less plainly.
    """
    taken = store.add(f"gpu/{host}/{gpu}", 1)
    if taken > 1:
        raise ValueError(
            f"{taken} ranks on {host} share the GPU {gpu}: a node takes at most as many ranks as it has GPUs; start "
            f"fewer (deepspeed --num_gpus {torch.cuda.device_count()}), or bind each task to a GPU of its own"
        )


def claim_for(store: Any, device: torch.device) -> None:
    """``claim`` for this host and a device."""
    claim(store, socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid))
