"""Streams over the made-up shards, and the global batches of all their ranks."""

from pathlib import Path
from typing import Any

import torch

from smalti.trainer.crops import CropConfig
from smalti.trainer.samples import Batch
from smalti.trainer.stream import DataConfig, Stream

CROP = CropConfig(size=16)


def make(
    folder: Path,
    rank: int = 0,
    world: int = 1,
    micro: int = 8,
    seed: int = 3,
    fields: tuple[str, ...] = ("picture", "map"),
    **options: Any,
) -> Stream:
    """One rank's stream with global batches of 8."""
    options = {"shards": (str(folder),), "crop": CROP, **options}
    return Stream(DataConfig(**options), fields, global_batch=8, micro_batch=micro, rank=rank, world=world, seed=seed)


def global_batches(
    folder: Path, steps: int, world: int = 1, micro: int = 8, start: int = 0, **options: Any
) -> list[Batch]:
    """The batches of all ranks, in the order of the ranks and micro-batches that they stand for."""
    streams = [make(folder, rank, world, micro, **options).steps(start) for rank in range(world)]
    whole = []
    for _ in range(steps):
        ranks = [next(stream) for stream in streams]
        parts = [ranks[rank][part] for part in range(len(ranks[0])) for rank in range(world)]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "key"}
        whole.append(joined | {"key": [key for part in parts for key in part["key"]]})
    for stream in streams:
        stream.close()
    return whole


def same(first: list[Batch], second: list[Batch]) -> bool:
    """Whether all keys and all tensors are equal."""
    return len(first) == len(second) and all(
        a["key"] == b["key"] and all(torch.equal(a[name], b[name]) for name in a if name != "key")
        for a, b in zip(first, second, strict=True)
    )
