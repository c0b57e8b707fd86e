"""The frozen networks that judge reconstructions, with their published weights: LPIPS, and a classifier's logits.

The heads of LPIPS are data of the installed lpips package, which is never imported: it needs a torchvision that fits
torch, and only one small file of it is wanted.
"""

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...models.bounds import Seed, Weight, check_ranges
from ...models.losses import logit_loss, lpips
from ..files import sha256
from ..frozen_networks import pretrained

_HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"  # vgg.pth of lpips 0.1.4
_REINSTALL = "run `pip install --force-reinstall --no-deps lpips==0.1.4`"


@dataclass(frozen=True)
class PerceptualConfig:
    """The perceptual loss: its weight, and where its trunk is found."""

    weight: Weight = 1.0
    trunk: Literal["vgg16", "random"] = "vgg16"  # random: for tests of the machinery; its distances mean little
    path: Path | None = None  # of the trunk's file; None looks in torch's cache
    download: bool = True  # into torch's cache, when the file is nowhere
    seed: Seed = 0  # of a random trunk

    def __post_init__(self) -> None:
        check_ranges(self)
        check(self.trunk, self.path)


@dataclass(frozen=True)
class LogitConfig:
    """The logit loss of a frozen ResNet-50: its weight, and where the classifier is found."""

    weight: Weight = 0.1
    classifier: Literal["resnet50", "random"] = "resnet50"  # random: for tests of the machinery
    path: Path | None = None  # of the classifier's file; None looks in torch's cache
    download: bool = True  # into torch's cache, when the file is nowhere
    seed: Seed = 0  # of a random classifier

    def __post_init__(self) -> None:
        check_ranges(self)
        check(self.classifier, self.path)


def check(network: str, path: Path | None) -> None:
    """Raises ValueError for a loss that cannot be."""
    if network == "random" and path is not None:
        raise ValueError(f"path is of no use to a random network, got {path}; leave out one of the two")


def load_lpips(config: PerceptualConfig) -> lpips.LPIPS:
    """LPIPS as the config asks for it, on the CPU. Every rank must call this.

    Raises:
        FileNotFoundError: the trunk's file is in no place and could not be downloaded, or lpips is not installed.
        ValueError: the file is not torchvision's VGG16, or the heads are not the published ones.
    """
    if config.trunk == "random":
        return lpips.LPIPS(random_weights(lpips.VGG16, "perceptual.trunk", config.seed), heads())
    return lpips.LPIPS(pretrained.VGG16.load(config.path, config.download), heads())


def load_logit_loss(config: LogitConfig) -> logit_loss.LogitLoss:
    """The logit loss as the config asks for it, on the CPU. Every rank must call this.

    Raises:
        FileNotFoundError: the classifier's file is in no place and could not be downloaded.
        ValueError: the file is not torchvision's ResNet-50.
    """
    if config.classifier == "random":
        return logit_loss.LogitLoss(random_weights(logit_loss.ResNet50, "logits.classifier", config.seed))
    return logit_loss.LogitLoss(pretrained.RESNET50.load(config.path, config.download))


def prefetch() -> list[Path]:
    """Downloads what both losses and the evaluation need into torch's cache; for machines with a network."""
    return [weights.prefetch() for weights in (pretrained.VGG16, pretrained.RESNET50, pretrained.INCEPTION)]


def heads() -> dict[str, Tensor]:
    """The five heads of LPIPS over VGG16, from the data of the installed lpips package.

    Raises:
        FileNotFoundError: the package, or its file, is not installed.
        ValueError: the file is another one, or a damaged one.
    """
    package = importlib.util.find_spec("lpips")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("LPIPS needs the lpips package for its heads; run `pip install lpips`")
    path = Path(package.submodule_search_locations[0]) / "weights" / "v0.1" / "vgg.pth"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; {_REINSTALL}")
    found = sha256(path)
    if found != _HEADS_SHA256:
        raise ValueError(
            f"{path} is not the published file of LPIPS' heads: its SHA-256 begins with {found[:8]}, not "
            f"{_HEADS_SHA256[:8]}; {_REINSTALL}"
        )
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def random_weights(network: type[torch.nn.Module], key: str, seed: int) -> dict[str, Tensor]:
    """Fresh weights, the same for the same seed, and a warning that what they say means little."""
    warnings.warn(
        f"a frozen judge of reconstructions has RANDOM weights (loss.{key}: random): good for tests of the "
        f"machinery, not for training or for numbers to report",
        stacklevel=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = network()
    return {name: value.detach() for name, value in fresh.state_dict().items()}
