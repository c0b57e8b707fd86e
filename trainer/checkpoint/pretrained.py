"""Exported networks from a folder or from the Hub, in one call."""

from pathlib import Path

import torch

from . import loading, model_files
from .loading import LoadedPrior, LoadedTokenizer


def from_pretrained(
    name: str | Path, revision: str | None = None, device: torch.device | None = None
) -> LoadedTokenizer | LoadedPrior:
    """The network of a run, of an export, or of a repository on the Hub that holds an export.

    Args:
        name: a folder, else the repository's OWNER/NAME.
        revision: of the repository: a branch, a tag or a commit.
        device: where the network is to live; by default on the CPU.

    Raises:
        ValueError: no such folder or export, nothing of that name to be had from the Hub, or the package
            huggingface_hub, which the Hub needs, is not installed.
    """
    folder = Path(name) if Path(name).is_dir() else _downloaded(str(name), revision)
    task = loading.of_newest(folder, model_files.read_metadata)["task"]
    load = loading.load_tokenizer if task == "vqgan" else loading.load_prior
    return load(folder, device or torch.device("cpu"))


def _downloaded(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{name} is no folder here, and the Hub needs the package huggingface_hub: pip install 'smalti[hub]'"
        ) from None
    wanted = ["*.safetensors", "*.json", "README.md"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} is no folder here, and cannot be had from the Hub: {error}") from None
