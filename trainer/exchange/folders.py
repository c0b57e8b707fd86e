"""Folders as other projects load them: weights in safetensors, in shards where they are large, and config.json."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .. import bounded_json
from ..checkpoint import shards

CONFIG = "config.json"
SHARD_BYTES = 5_000_000_000  # of the weights in one file


class FormatError(ValueError):
    """A network that a format cannot represent exactly; its message says why."""


class ModelFolder(NamedTuple):
    """What such a folder holds."""

    stem: str  # of the file of weights, or of its shards
    weights: dict[str, Tensor]
    config: dict[str, Any]
    beside: dict[str, str]  # the texts of other files, by name


def write(folder: Path, model: ModelFolder, shard_bytes: int = SHARD_BYTES) -> None:
    """Fill a folder."""
    shards.write(folder, model.stem, model.weights, shard_bytes)
    (folder / CONFIG).write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
    for name, text in model.beside.items():
        (folder / name).write_text(text, encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        ValueError: there is none, or it is none.
    """
    try:
        said = bounded_json.read(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise ValueError(f"{folder / CONFIG} holds no JSON object")
    return said
