"""Trained networks, ready for use, from a run's folder or from an export."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from ...models.conditions import ConditionConfig
from ...models.priors import PriorConfig
from ...models.priors.base import Prior as PriorNetwork
from ...models.vqgan.autoencoder import VQGAN, VQGANConfig
from ..config import from_mapping
from ..files import write_whole
from . import model_files, storage

Module = TypeVar("Module", bound=nn.Module)


class LoadedTokenizer(NamedTuple):
    """A VQGAN in evaluation mode, and its metadata."""

    model: VQGAN
    metadata: dict[str, Any]


class LoadedPrior(NamedTuple):
    """A prior in evaluation mode, and its metadata."""

    model: PriorNetwork
    metadata: dict[str, Any]


def resolve_weights(path: Path) -> Path:
    """Where the weights lie: the newest whole checkpoint of a run, else the folder itself if it is an export.

    Raises:
        ValueError: there are none.
    """
    if not storage.list_checkpoints(path) and (path / model_files.METADATA).is_file():
        return path
    found = storage.latest_valid(path)
    if found is None:
        raise ValueError(
            f"{path} is neither an export (no {model_files.METADATA}) nor a run with a checkpoint; train it first"
        )
    return found.folder


def find_tokenizer(run: Path, named: str) -> Path:
    """The folder of the tokenizer that a prior's run names, known by its content.

    The run's config names it as seen from where it was trained: from here, else from a folder above the run.

    Raises:
        ValueError: it is at none of these places.
    """
    wanted = model_files.read_metadata(resolve_weights(run), "prior")["tokenizer"]
    places = [Path(named), *(above / named for above in run.resolve().parents)]
    for place in dict.fromkeys(places):
        with suppress(ValueError):
            if model_files.read_metadata(resolve_weights(place), "vqgan")["digest"] == wanted:
                return place
    raise ValueError(
        f"the tokenizer {wanted[:12]} of {run} is not at {named}, seen from here or from a folder above the run; name "
        "its folder behind that of the prior"
    )


def load_tokenizer(path: Path, device: torch.device) -> LoadedTokenizer:
    """The VQGAN of a run or an export.

    Raises:
        ValueError: no weights there, of another task, or not those that the metadata speaks of.
    """
    folder = resolve_weights(path)
    metadata = model_files.read_metadata(folder, "vqgan")
    config = from_mapping(VQGANConfig, metadata["model"], f"the metadata in {folder}", saved=True)
    return LoadedTokenizer(_filled(config.build(), folder, metadata, device), metadata)


def load_prior(path: Path, device: torch.device) -> LoadedPrior:
    """The prior of a run or an export. Raises as ``load_tokenizer``."""
    folder = resolve_weights(path)
    metadata = model_files.read_metadata(folder, "prior")
    source = f"the metadata in {folder}"
    config: Any = from_mapping(PriorConfig, metadata["model"], source, saved=True)
    condition: Any = from_mapping(ConditionConfig, metadata["condition"], source, saved=True)
    return LoadedPrior(_filled(config.build(metadata["codes"], condition), folder, metadata, device), metadata)


def _filled(model: Module, folder: Path, metadata: dict[str, Any], device: torch.device) -> Module:
    model.load_state_dict(model_files.read(folder, metadata))
    return model.to(device).eval().requires_grad_(False)


def export(run: Path, destination: Path) -> dict[str, Any]:
    """Copy the weights of a run's newest whole checkpoint, and their metadata, to a folder; the metadata is returned.

    Raises:
        ValueError: the run has no whole checkpoint, its weights are not what their metadata says, or the destination
            is a run or holds files that no export has left there.
    """
    source = resolve_weights(run)
    metadata = model_files.read_metadata(source)
    model_files.read(source, metadata)
    _refuse_others(source, destination)
    destination.mkdir(parents=True, exist_ok=True)
    for name in (model_files.WEIGHTS, model_files.METADATA):  # the metadata last: a folder with metadata is an export
        write_whole(destination / name, (source / name).read_bytes())
    return metadata


def _refuse_others(source: Path, destination: Path) -> None:
    """Make sure that an export replaces nothing but an earlier export, or what a killed one left of this."""
    if storage.list_checkpoints(destination) or source.resolve() == destination.resolve():
        raise ValueError(f"{destination} is a run's folder; export to a new one, such as {destination}-export")
    there = [
        destination / name for name in (model_files.WEIGHTS, model_files.METADATA) if (destination / name).exists()
    ]
    same = all(path.read_bytes() == (source / path.name).read_bytes() for path in there)
    if not same and not _is_export(destination):
        raise ValueError(f"{there[0]} was not written by an export; move it away, or export to another folder")


def _is_export(folder: Path) -> bool:
    try:
        model_files.read(folder, model_files.read_metadata(folder))
    except ValueError:
        return False
    return True
