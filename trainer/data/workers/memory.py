"""Batches on their way from a worker process: in shared memory, or through a pipe where that is full.

A data loader moves tensors into shared memory in a thread of its own, when a batch is already on its way. Where
``/dev/shm`` has no room (64 MB in many containers) that batch is lost, and its reader waits for ever. So the worker
moves them itself beforehand, and knows what to do.
"""

from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..collate import Batch
from .datasets import LoadedBatch


class PipedTensor(NamedTuple):
    """A tensor that found no room in shared memory; its numbers as bytes can go through a pipe."""

    data: bytes
    shape: tuple[int, ...]
    dtype: torch.dtype


SentBatch = dict[str, Tensor | PipedTensor | list[str]]


class SentData(NamedTuple):
    """A loaded batch as it leaves its worker."""

    batches: list[SentBatch]
    rest: LoadedBatch  # without its batches


def send(loaded: Any) -> SentData:
    """A ``LoadedBatch`` made ready to leave its worker; in the process that uses it, nothing is moved."""
    move = get_worker_info() is not None
    sent = [
        {name: _moved(values) if move and isinstance(values, Tensor) else values for name, values in batch.items()}
        for batch in loaded.batches
    ]
    return SentData(sent, loaded._replace(batches=[]))


def receive(sent: SentData) -> tuple[LoadedBatch, bool]:
    """The batch that was sent, and whether a part of it came through a pipe."""
    piped = any(isinstance(values, PipedTensor) for batch in sent.batches for values in batch.values())
    batches: list[Batch] = [
        {name: _tensor(values) if isinstance(values, PipedTensor) else values for name, values in batch.items()}
        for batch in sent.batches
    ]
    return sent.rest._replace(batches=batches), piped


def _moved(values: Tensor) -> Tensor | PipedTensor:
    with suppress(RuntimeError):  # no room
        values.share_memory_()  # type: ignore[no-untyped-call]
        return values
    return PipedTensor(values.numpy().tobytes(), tuple(values.shape), values.dtype)


def _tensor(piped: PipedTensor) -> Tensor:
    if not piped.data:
        return torch.empty(piped.shape, dtype=piped.dtype)
    return torch.frombuffer(bytearray(piped.data), dtype=piped.dtype).reshape(piped.shape)
