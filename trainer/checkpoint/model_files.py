"""Weights for use: ``model.safetensors`` and the metadata (``config.json``) that says what they are.

A checkpoint holds this pair, and an export is this pair. The metadata name the weights by their content, so that codes
and priors can say which tokenizer they belong to, wherever its files lie.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..schema import renamed
from . import sealed, shards

WEIGHTS = "model.safetensors"
METADATA = "config.json"


def digest(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the weights' names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write(
    folder: Path, weights: dict[str, Tensor], metadata: Mapping[str, Any], shard_bytes: int | None = None
) -> None:
    """Leave the pair in a folder; the metadata gets the weights' digest and a checksum of its own.

    Args:
        shard_bytes: the most bytes of a file of weights, where they are to be cut into several with an index.
    """
    shards.write(folder, WEIGHTS.removesuffix(shards.SUFFIX), weights, shard_bytes)
    (folder / METADATA).write_text(sealed.sealed({**metadata, "digest": digest(weights)}), encoding="utf-8")


def read_metadata(folder: Path, task: str | None = None) -> dict[str, Any]:
    """What the weights in a folder are, without loading them.

    Raises:
        ValueError: no metadata, not what was written, another format, or weights of another task than the asked one.
    """
    place = folder / METADATA
    try:
        metadata = sealed.opened(place).content
    except (OSError, ValueError) as error:
        raise ValueError(f"{place} cannot be read: {error}; export the run again") from None
    if metadata.get("format") not in (1, sealed.FORMAT) or not isinstance(metadata.get("digest"), str):
        raise ValueError(f"{place} is not metadata of this format; export the run again")
    if task is not None and metadata.get("task") != task:
        raise ValueError(f"{place} describes a {metadata.get('task')!r}, not a {task!r}; name the folder of a {task}")
    return _in_present_names(metadata)


def read(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that metadata speaks of.

    Raises:
        ValueError: the file cannot be read, or its content is not what the metadata says.
    """
    place = folder / WEIGHTS
    try:
        weights: dict[str, Tensor] = shards.read(folder, WEIGHTS.removesuffix(shards.SUFFIX))
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{place} cannot be read: {error}; export the run again") from None
    found = digest(weights)
    if found != metadata["digest"]:
        raise ValueError(
            f"{place} holds the weights {found[:12]} and its metadata speaks of {metadata['digest'][:12]}; "
            f"the file is damaged or was exchanged: export the run again"
        )
    return weights


def _in_present_names(metadata: dict[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote, under the names that this one uses."""
    present = renamed.values(renamed.keys("metadata", metadata))
    if isinstance(present.get("condition_tokenizers"), dict):
        present["condition_tokenizers"] = renamed.keys("condition_tokenizers", present["condition_tokenizers"])
    return present
