"""Trained networks, ready for use, from a run's folder or from an export.

Shapes: B images of H x W pixels, their grids of h x w codes.
"""

import filecmp
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ...models.conditions import ConditionConfig
from ...models.priors import PriorConfig
from ...models.priors.base import Prior as PriorNetwork
from ...models.vqgan.autoencoder import VQGAN, VQGANConfig
from ...models.vqgan.palette import Palette, PaletteConfig
from ..config import from_mapping
from ..distributed import ranks
from ..files import copy_whole
from . import model_files, storage

Module = TypeVar("Module", bound=nn.Module)
T = TypeVar("T")

Precision = Literal["fp32", "bf16"]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LoadedTokenizer(NamedTuple):
    """A VQGAN, or a palette of colors, in evaluation mode, and its metadata."""

    model: VQGAN | Palette
    metadata: dict[str, Any]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The codes of images, on the tokenizer's device.

        Args:
            images: (B, 3, H, W) in [-1, 1], both sides multiples of the factor; (B, 1, H, W) in [-1, 1] for a
                tokenizer of depth, (B, H, W) integers for one of segmentations.

        Returns:
            (B, h, w) int64.

        Raises:
            ValueError: a side is no multiple of the factor, or images are integers.
        """
        if self.model.config.num_labels is None and not images.is_floating_point():
            raise ValueError(
                f"images must be floats in [-1, 1], got {images.dtype}; x.float() / 127.5 - 1 makes them so"
            )
        return self.model.encode(images.to(self._device)).indices

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The images of (B, h, w) codes, on the tokenizer's device, as ``encode`` takes them.

        Raises:
            ValueError: a code is not in the codebook.
        """
        known = self.model.config.codebook_size
        smallest, largest = int(codes.min()), int(codes.max())
        if not 0 <= smallest <= largest < known:
            raise ValueError(f"codes must be in [0, {known}), got {smallest} to {largest}; are they this tokenizer's?")
        decoded = self.model.decode_codes(codes.to(self._device))
        return decoded.clamp(-1, 1) if self.model.config.num_labels is None else decoded.argmax(dim=1)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class LoadedPrior(NamedTuple):
    """A prior in evaluation mode, and its metadata."""

    model: PriorNetwork
    metadata: dict[str, Any]


def resolve_weights(path: Path) -> Path:
    """Where the weights lie: the newest whole checkpoint of a run, else the folder itself if it is an export.

    States of training are not read for it: each of many ranks that sample would read all of them.

    Raises:
        ValueError: there are none.
    """
    if not storage.list_checkpoints(path) and (path / model_files.METADATA).is_file():
        return path
    found = storage.latest_valid(path, states=False)
    if found is None:
        raise ValueError(
            f"{path} is neither an export (no {model_files.METADATA}) nor a run with a checkpoint; train it first"
        )
    return found.folder


def of_newest(path: Path, read: Callable[[Path], T]) -> T:
    """What is read of the newest whole weights of a run, or of an export.

    A run that trains meanwhile may remove a checkpoint for a newer one before it is read; that one is read then.

    Args:
        read: of a folder with weights.

    Raises:
        OSError, ValueError: there are none, or what ``read`` raises of a folder that is still there.
    """
    while True:
        folder = resolve_weights(path)
        try:
            return read(folder)
        except (OSError, ValueError):
            if folder.exists():
                raise


class TokenizerRef(NamedTuple):
    """Where a tokenizer's weights lie, and their metadata. Finding them reads every byte of a checkpoint's weights."""

    folder: Path
    metadata: dict[str, Any]


def tokenizer_ref(path: Path) -> TokenizerRef:
    """The newest whole weights of a VQGAN's run, or its export.

    Raises:
        ValueError: there are none, or of another task.
    """
    return of_newest(path, lambda folder: TokenizerRef(folder, model_files.read_metadata(folder, "vqgan")))


def find_tokenizer(run: Path, named: str, wanted: str) -> TokenizerRef:
    """The tokenizer that a prior's run names, known by its content.

    The run's config names it as seen from where it was trained: from here, else from a folder above the run.

    Args:
        wanted: the digest that the prior's metadata have of it.

    Raises:
        ValueError: it is at none of these places.
    """
    found = _find(run, named, wanted, "vqgan")
    if found is None:
        raise ValueError(
            f"the tokenizer {wanted[:12]} of {run} is not at {named}, seen from here or from a folder above the run; "
            "name its folder behind that of the prior"
        )
    return found


def find_guide(run: Path, named: str, wanted: str) -> Path:
    """Where the weights of the editor lie that guides that of a run; as ``find_tokenizer``."""
    found = _find(run, named, wanted, "prior")
    if found is None:
        raise ValueError(
            f"the guide {wanted[:12]} of {run} is not at {named}, seen from here or from a folder above the run; "
            "name its folder with --guide"
        )
    return found.folder


def _find(run: Path, named: str, wanted: str, task: str) -> TokenizerRef | None:
    places = [Path(named), *(above / named for above in run.resolve().parents)]
    for place in dict.fromkeys(places):
        with suppress(ValueError):
            folder = resolve_weights(place)
            metadata = model_files.read_metadata(folder, task)
            if metadata["digest"] == wanted:
                return TokenizerRef(folder, metadata)
    return None


def load_tokenizer(path: str | Path | TokenizerRef, device: torch.device | str | None = None) -> LoadedTokenizer:
    """The VQGAN of a run or an export, with its averaged weights.

    Args:
        path: the folder, or what ``tokenizer_ref`` found there.
        device: by default this rank's GPU if there is one.

    Raises:
        ValueError: no weights there, of another task, or not those that the metadata speaks of.
    """
    if isinstance(path, TokenizerRef):
        return _tokenizer(*path, device)
    return of_newest(Path(path), lambda folder: _tokenizer(folder, model_files.read_metadata(folder, "vqgan"), device))


def _tokenizer(folder: Path, metadata: dict[str, Any], device: torch.device | str | None) -> LoadedTokenizer:
    model: VQGAN | Palette = tokenizer_config(TokenizerRef(folder, metadata)).build()
    return LoadedTokenizer(_filled(model, folder, metadata, device), metadata)


def tokenizer_config(ref: TokenizerRef) -> VQGANConfig | PaletteConfig:
    """The config of a tokenizer, as its metadata have it.

    Raises:
        ValueError: they are of no such network.
    """
    kind: Any = PaletteConfig if ref.metadata["model"].get("kind") == "palette" else VQGANConfig
    config: VQGANConfig | PaletteConfig
    config = from_mapping(kind, ref.metadata["model"], f"the metadata in {ref.folder}", saved=True)
    return config


def load_prior(
    path: str | Path, device: torch.device | str | None = None, precision: Precision = "fp32"
) -> LoadedPrior:
    """The prior of a run or an export, in a precision. Other arguments and errors as of ``load_tokenizer``."""
    return of_newest(Path(path), lambda folder: _prior(folder, device, precision))


def _prior(folder: Path, device: torch.device | str | None, precision: Precision) -> LoadedPrior:
    metadata = model_files.read_metadata(folder, "prior")
    source = f"the metadata in {folder}"
    config: Any = from_mapping(PriorConfig, metadata["model"], source, saved=True)
    condition: Any = from_mapping(ConditionConfig, metadata["condition"], source, saved=True)
    prior = _filled(config.build(metadata["codes"], condition), folder, metadata, device)
    return LoadedPrior(prior.to(PRECISIONS[precision]), metadata)


def _filled(model: Module, folder: Path, metadata: dict[str, Any], device: torch.device | str | None) -> Module:
    model.load_state_dict(model_files.read(folder, metadata))
    return model.to(ranks.device() if device is None else device).eval().requires_grad_(False)


def export(run: Path, destination: Path) -> dict[str, Any]:
    """Copy the weights of a run's newest whole checkpoint, and their metadata, to a folder; the metadata is returned.

    Raises:
        ValueError: the run has no whole checkpoint, its weights are not what their metadata says, or the destination
            is a run or holds files that no export has left there.
    """

    def copied(source: Path) -> dict[str, Any]:
        metadata = model_files.read_metadata(source)
        model_files.read(source, metadata)
        _refuse_others(source, destination)
        destination.mkdir(parents=True, exist_ok=True)
        for name in (model_files.WEIGHTS, model_files.METADATA):  # the metadata last: they make a folder an export
            copy_whole(source / name, destination / name)
        return metadata

    return of_newest(run, copied)


def _refuse_others(source: Path, destination: Path) -> None:
    """Make sure that an export replaces nothing but an earlier export, or what a killed one left of this."""
    if storage.list_checkpoints(destination) or source.resolve() == destination.resolve():
        raise ValueError(f"{destination} is a run's folder; export to a new one, such as {destination}-export")
    there = [
        destination / name for name in (model_files.WEIGHTS, model_files.METADATA) if (destination / name).exists()
    ]
    same = all(filecmp.cmp(path, source / path.name, shallow=False) for path in there)
    if not same and not _is_export(destination):
        raise ValueError(f"{there[0]} was not written by an export; move it away, or export to another folder")


def _is_export(folder: Path) -> bool:
    try:
        model_files.read(folder, model_files.read_metadata(folder))
    except ValueError:
        return False
    return True
