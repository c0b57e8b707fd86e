"""Imported networks, as ordinary export folders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ...models.conditions import ConditionConfig
from ...models.discriminators import PatchGANConfig
from ...models.priors.gpt import GPTConfig
from ...models.vqgan.autoencoder import VQGANConfig
from ..checkpoint import discriminator_files, model_files
from ..config import to_mapping
from ..files import new_folder

REPORT = "import.json"  # beside the weights: what became of every tensor of the source


class Network(NamedTuple):
    """A network to be written: its weights and what they are."""

    weights: dict[str, Tensor]
    metadata: dict[str, Any]
    discriminator: tuple[PatchGANConfig, dict[str, Tensor]] | None = None

    @property
    def digest(self) -> str:
        """The name of the weights by their content."""
        return model_files.digest(self.weights)


def vqgan_metadata(config: VQGANConfig) -> dict[str, Any]:
    """What the weights of an imported autoencoder are."""
    images = "depth" if config.in_channels == 1 else "image"
    return {
        "task": "vqgan",
        "model": to_mapping(config),
        "target": images if config.num_labels is None else "segmentation",
        "factor": config.factor,
        "codes": config.codebook_size,
        "perceptual_trunk": None,
    }


def prior_metadata(
    config: GPTConfig, condition: ConditionConfig, tokenizer: Mapping[str, Any], digests: tuple[str, dict[str, str]]
) -> dict[str, Any]:
    """What the weights of an imported prior are.

    Args:
        tokenizer: the metadata of the tokenizer of its codes.
        digests: of that tokenizer, and of those of the condition by what they encode.
    """
    return {
        "task": "prior",
        "model": to_mapping(config),
        "condition": to_mapping(condition),
        "codes": tokenizer["codes"],
        "factor": tokenizer["factor"],
        "tokenizer": digests[0],
        "condition_tokenizers": digests[1],
    }


def write(networks: Mapping[str, Network], report: Mapping[str, Any], destination: Path) -> list[str]:
    """Write networks to folders of their names below a new folder, or a network without a name to the folder itself.

    Returns:
        A line for each.

    Raises:
        ValueError: the folder is there already, or another command fills it.
    """
    lines = []
    with new_folder(destination) as aside:
        for name, network in networks.items():
            folder = aside / name
            folder.mkdir(parents=True, exist_ok=True)
            metadata = network.metadata
            if network.discriminator is not None:
                metadata = metadata | discriminator_files.write(folder, *network.discriminator)
            model_files.write(folder, network.weights, metadata)
            kept = ", with its discriminator" if network.discriminator is not None else ""
            lines.append(f"{destination / name}: {metadata['task']}, weights {network.digest[:12]}{kept}")
        (aside / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return lines


def summary(report: Mapping[str, Mapping[str, str]]) -> Sequence[str]:
    """How many tensors were used, and how many dropped for each reason."""
    reasons: dict[str, int] = {}
    for reason in report["dropped"].values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return [f"used {len(report['used'])} tensors", *(f"dropped {count}: {why}" for why, count in reasons.items())]
