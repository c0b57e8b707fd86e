"""Which GPU a rank takes, and that no two ranks of a node take the same one."""

import os
import socket
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import torch

NCCL_GRACE = timedelta(seconds=60)
"""How much longer NCCL waits than the watchdog of a rank, which says where the threads stand; NCCL only aborts."""


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


def set_nccl(environment: MutableMapping[str, str], timeout: timedelta) -> timedelta:
    """Set NCCL up to end a rank that waits in vain, unless the environment says otherwise; how long it may wait.

    ``TORCH_NCCL_ASYNC_ERROR_HANDLING=3`` aborts the process when a message is late or a peer is lost, without taking
    communicators down, which can hang. The heartbeat ends one whose own watchdog stands still, in the driver for
    instance: not before a message may be late.
    """
    limit = timeout + NCCL_GRACE
    environment.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
    environment.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", str(int(limit.total_seconds())))
    return limit
