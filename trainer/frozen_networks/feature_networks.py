"""The frozen networks in whose features sets of images are compared: a TorchScript file, or the published Inception.

Shapes: B images of H x W pixels, D features of an image, C classes, S spatial features.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.bounds import Name, check_ranges
from ..distributed import ranks
from ..files import sha256
from . import torchscript
from .pretrained import INCEPTION

EXTRA = "pip install 'smalti[metrics]'"
PUBLISHED = "inception"


@dataclass(frozen=True)
class FeatureNetworkConfig:
    """In whose features images are compared."""

    network: Name = PUBLISHED  # a TorchScript file; inception: the network of published FIDs
    weights: Path | None = None  # of inception; None looks in torch's cache

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.weights is not None and self.network != PUBLISHED:
            raise ValueError(f"weights are those of network: {PUBLISHED}, got {self.weights} and {self.network}")


class Features(NamedTuple):
    """What a feature network says of a batch of images."""

    pooled: Tensor  # (B, D): of the Frechet distance
    logits: Tensor | None = None  # (B, C): of the inception score
    spatial: Tensor | None = None  # (B, S): of sFID


class FeatureNetwork(NamedTuple):
    """A frozen network on this rank's device."""

    name: str
    digest: str  # the SHA-256 of its file
    compute: Callable[[Tensor], Features]  # of (B, 3, H, W) uint8
    dimensions: int  # D
    classes: int = 0  # C; 0 where it gives no logits
    spatial: int = 0  # S; 0 where it gives no spatial features

    def protocol(self) -> dict[str, Any]:
        """What figures made of these features must say of them."""
        return {"features": f"{self.name}, {self.dimensions} of an image", "features_sha256": self.digest}

    def features(self, levels: Tensor, keys: list[str]) -> Features:
        """The features of (B, 3, H, W) uint8 images of these keys.

        Raises:
            ValueError: some are no finite numbers; naming the first image.
        """
        with torchscript.plain_execution():
            found = self.compute(levels)
        for part in found:
            if part is not None and not bool(part.isfinite().all()):
                wrong = keys[int((~part.isfinite().flatten(1).all(1)).nonzero()[0])]
                raise ValueError(
                    f"the feature network {self.name} gives NaN or infinity for the image {wrong}; its file is "
                    "damaged, or the network does not take 8-bit images of this size"
                )
        return found


def load_features(config: FeatureNetworkConfig, side: int) -> FeatureNetwork:
    """The network that a config names. Every rank must call this.

    Args:
        side: of the images that it will get, in pixels.

    Raises:
        AgreedError: it is not to be had, with what to do; on every rank.
    """
    if config.network == PUBLISHED:
        return ranks.agreed(lambda: load_inception(config.weights))
    return ranks.agreed(lambda: load_torchscript(Path(config.network), side))


def load_torchscript(path: Path, side: int) -> FeatureNetwork:
    """The network of a TorchScript file.

    It takes (B, 3, H, W) uint8 and gives (B, D) features, or a tuple of them, (B, C) logits and (B, S) spatial
    features, of which the later may be missing. Resizing and normalizing are its own business.

    Args:
        side: of the images that it will get, in pixels; two black ones are tried.

    Raises:
        ValueError: it cannot be read, or does not take or give such tensors.
    """
    network = torchscript.load(path, ranks.device())
    arguments = {argument.name for argument in network.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in arguments else {}  # of StyleGAN's Inception

    def compute(levels: Tensor) -> Features:
        found = network(levels, **options)
        return Features(*(found if isinstance(found, tuple) else (found,)))

    made = FeatureNetwork(path.name, sha256(path), compute, 0)
    try:
        tried = made.features(torch.zeros(2, 3, side, side, dtype=torch.uint8, device=ranks.device()), ["of zeros"] * 2)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} does not take uint8 images of 3 x {side} x {side}: {torchscript.first_line(error)}"
        ) from None
    wrong = [part for part in tried if part is not None and (part.dim() != 2 or len(part) != 2)]
    if wrong:
        raise ValueError(
            f"{path} gives {tuple(wrong[0].shape)} for 2 images, and must give (2, D), a row of features for each; "
            "pool what it gives, and save it again"
        )
    sizes = [0 if part is None else part.shape[1] for part in tried]
    return FeatureNetwork(path.name, made.digest, compute, *sizes)


def load_inception(path: Path | None, download: bool = True) -> FeatureNetwork:
    """The Inception of the published FIDs, with torch-fidelity's port of its weights. Every rank must call this.

    Args:
        path: of the weights' file; None for torch's cache, where rank 0 downloads it if it may.

    Raises:
        FileNotFoundError: the weights are nowhere.
        ValueError: torch-fidelity cannot be imported, or the file is not the published one.
    """
    try:
        extractors: Any = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises RuntimeError
        raise ValueError(
            f"the published Inception needs torch-fidelity, which cannot be imported "
            f"({torchscript.first_line(error)}): {EXTRA}; else name a TorchScript file with --features FILE, or leave "
            "FID out with --features none"
        ) from None
    INCEPTION.load(path, download)
    place = INCEPTION.find(path)
    network = extractors.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits"], feature_extractor_weights_path=str(place)
    )
    network = network.eval().requires_grad_(False).to(ranks.device())

    def compute(levels: Tensor) -> Features:
        pooled, logits = network(levels)
        return Features(pooled, logits)

    return FeatureNetwork("inception-v3-compat", sha256(place), compute, 2048, 1008)
