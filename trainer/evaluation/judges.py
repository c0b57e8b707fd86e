"""The frozen networks that compare real images with made ones: which are asked for, and where they are found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ...models.losses.lpips import LPIPS
from ..distributed import ranks
from ..frozen_networks.feature_networks import PUBLISHED, FeatureNetwork, FeatureNetworkConfig, load_features
from ..vqgan.frozen_losses import PerceptualConfig, load_lpips

NONE = "none"


@dataclass(frozen=True)
class JudgesConfig:
    """Which networks compare images."""

    features: str = PUBLISHED  # a TorchScript file; inception: the network of published FIDs; none
    inception_weights: Path | None = None  # None looks in torch's cache
    lpips: Literal["vgg16", "random", "none"] = "vgg16"  # random: for tests of the machinery
    lpips_weights: Path | None = None  # None looks in torch's cache


class Judges(NamedTuple):
    """What compares images, besides their pixels."""

    features: FeatureNetwork | None = None  # None: no Frechet distance
    lpips: LPIPS | None = None
    lpips_trunk: str = NONE  # for the protocol


def load_judges(config: JudgesConfig, side: int) -> Judges:
    """The networks on this rank's device. Every rank must call this.

    Args:
        side: of the images that they will see, in pixels.

    Raises:
        AgreedError: one is not to be had, with what to do; on every rank.
    """
    features, lpips = None, None
    if config.features != NONE:
        weights = config.inception_weights if config.features == PUBLISHED else None
        features = load_features(FeatureNetworkConfig(config.features, weights), side)
    if config.lpips != "none":
        trunk, path = config.lpips, config.lpips_weights
        try:
            lpips = ranks.agreed(lambda: load_lpips(PerceptualConfig(trunk=trunk, path=path)))
        except ranks.AgreedError as error:
            raise ranks.AgreedError(f"{error}; or leave LPIPS out with --lpips none") from None
        lpips.to(ranks.device())
    return Judges(features, lpips, config.lpips)
