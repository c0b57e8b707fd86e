"""Trained networks, ready for use, from a run's folder or from an export."""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from ..models.conditions import ConditionConfig
from ..models.prior import Prior as PriorNetwork
from ..models.priors import PriorConfig
from ..models.vqgan import VQGAN, VQGANConfig
from . import checkpoints, weights
from .config import from_mapping
from .files import write_whole

Module = TypeVar("Module", bound=nn.Module)


class Tokenizer(NamedTuple):
    """A VQGAN in evaluation mode, and its card."""

    model: VQGAN
    card: dict[str, Any]


class Prior(NamedTuple):
    """A prior in evaluation mode, and its card."""

    model: PriorNetwork
    card: dict[str, Any]


def weights_folder(path: Path) -> Path:
    """Where the weights lie: the folder itself if it is an export, else the newest whole checkpoint of the run.

    Raises:
        ValueError: there are none.
    """
    if (path / weights.CARD).is_file():
        return path
    found = checkpoints.newest(path)
    if found is None:
        raise ValueError(f"{path} is neither an export (no {weights.CARD}) nor a run with a checkpoint; train it first")
    return found.folder


def load_tokenizer(path: Path, device: torch.device) -> Tokenizer:
    """The VQGAN of a run or an export.

    Raises:
        ValueError: no weights there, of another task, or not those that the card speaks of.
    """
    folder = weights_folder(path)
    card = weights.read_card(folder, "vqgan")
    config = from_mapping(VQGANConfig, card["model"], f"the card in {folder}")
    return Tokenizer(_filled(config.build(), folder, card, device), card)


def load_prior(path: Path, device: torch.device) -> Prior:
    """The prior of a run or an export. Raises as ``load_tokenizer``."""
    folder = weights_folder(path)
    card = weights.read_card(folder, "prior")
    source = f"the card in {folder}"
    config: Any = from_mapping(PriorConfig, card["model"], source)
    condition: Any = from_mapping(ConditionConfig, card["condition"], source)
    return Prior(_filled(config.build(card["codes"], condition), folder, card, device), card)


def _filled(model: Module, folder: Path, card: dict[str, Any], device: torch.device) -> Module:
    model.load_state_dict(weights.read(folder, card))
    return model.to(device).eval().requires_grad_(False)


def export(run: Path, destination: Path) -> dict[str, Any]:
    """Copy the weights of a run's newest whole checkpoint, and their card, to a folder; the card is returned.

    Raises:
        ValueError: the run has no whole checkpoint, or its weights are not what their card says.
    """
    source = weights_folder(run)
    card = weights.read_card(source)
    weights.read(source, card)
    destination.mkdir(parents=True, exist_ok=True)
    for name in (weights.WEIGHTS, weights.CARD):  # the card last: a folder with a card is an export
        write_whole(destination / name, (source / name).read_bytes())
    return card
