"""The weights that the optimizer of a run writes, from its checkpoint of any ZeRO stage and any number of ranks."""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from . import model_files, resharding, storage

ENGINES = {"vqgan": "generator", "prior": "prior"}


class RawWeights(Mapping[str, Tensor]):
    """The raw weights, in fp32 where they are floating, under the names of the averaged ones beside them.

    Each is joined from the optimizer's fp32 masters when it is asked for, and kept by nobody; no GPU and no engine is
    needed.

    Args:
        folder: of a whole checkpoint.
        metadata: of the averaged weights there.

    Raises:
        ValueError: its states lie on NVMe, or are of other parameters than the averaged weights.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        name = ENGINES[metadata["task"]]
        manifest = storage.manifest_of(folder)
        self._parts = resharding.masters(folder / name, manifest["zero"][name], manifest["ranks"])
        with safe_open(folder / model_files.WEIGHTS, framework="pt") as file:
            self._shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        others = sorted(set(self._parts) ^ set(self._shapes))
        if others:
            raise ValueError(f"{folder / name} holds other parameters: {', '.join(others[:5])}")

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        whole = resharding.joined(self._parts[name], prod(shape)).view(shape)
        return whole.float() if whole.is_floating_point() else whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
