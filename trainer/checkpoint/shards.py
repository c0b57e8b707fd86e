"""Weights in safetensors: one file, or several with an index where they are large, named as the Hub's libraries do."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import bounded_json

SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"


def write(folder: Path, stem: str, weights: Mapping[str, Tensor], most: int | None = None) -> None:
    """One file ``STEM.safetensors``, or ``STEM-00001-of-0000N.safetensors`` with an index of which tensor lies where.

    Args:
        most: bytes of a file; a single tensor may have more. None for one file.
    """
    parts: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, tensor in weights.items():
        size = tensor.numel() * tensor.element_size()
        if most is not None and parts[-1] and held + size > most:
            parts.append({})
            held = 0
        parts[-1][name] = tensor.contiguous()
        held += size
    if len(parts) == 1:
        save_file(parts[0], folder / f"{stem}{SUFFIX}", {"format": "pt"})
        return
    placed: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"{stem}-{number:05d}-of-{len(parts):05d}{SUFFIX}"
        save_file(part, folder / name, {"format": "pt"})
        placed |= dict.fromkeys(part, name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / f"{stem}{INDEX}").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def files(folder: Path, index: Path) -> dict[str, list[str]]:
    """Which files an index names, and the tensors that it says lie in each.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no index, or names what is no file of its own folder.
    """
    said = bounded_json.read(index)
    placed = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise ValueError(f"{index.name} has no weight_map")
    found: dict[str, list[str]] = {}
    for tensor, name in placed.items():
        if Path(name).name != name or not name.endswith(SUFFIX):
            raise ValueError(f"{index.name} names {name!r}, which is no file of safetensors in its folder")
        found.setdefault(name, []).append(tensor)
    return found


def read(folder: Path, stem: str) -> dict[str, Tensor]:
    """The weights that ``write`` has left.

    Raises:
        OSError, SafetensorError: a file cannot be read.
        ValueError: the index is none, or its files hold other tensors than it says.
    """
    index = folder / f"{stem}{INDEX}"
    if (folder / f"{stem}{SUFFIX}").exists() or not index.exists():
        whole: dict[str, Tensor] = load_file(folder / f"{stem}{SUFFIX}")
        return whole
    weights: dict[str, Tensor] = {}
    for name, tensors in files(folder, index).items():
        part: dict[str, Tensor] = load_file(folder / name)
        if sorted(part) != sorted(tensors):
            raise ValueError(f"{name} holds other tensors than {index.name} says")
        weights |= part
    return weights
