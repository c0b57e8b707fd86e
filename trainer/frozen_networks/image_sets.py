"""Sets of images as the moments of their features, summed over ranks, and the distance of two sets.

Shapes: B images of H x W pixels.
"""

import warnings
from typing import NamedTuple

from torch import Tensor

from ...models.metrics.moments import Moments, MomentSums, frechet_distance
from ..distributed import ranks
from .feature_networks import FeatureNetwork, Features


class SetMoments(NamedTuple):
    """The moments of a set of images."""

    pooled: Moments
    spatial: Moments | None


class SetSums:
    """The sums of the moments of a set of images. Every rank makes one and adds its own images."""

    def __init__(self, network: FeatureNetwork) -> None:
        self._pooled = MomentSums(network.dimensions, ranks.device())
        self._spatial = MomentSums(network.spatial, ranks.device()) if network.spatial else None

    def add(self, found: Features) -> None:
        """Take in the features of some images."""
        self._pooled.add(found.pooled)
        if self._spatial is not None and found.spatial is not None:
            self._spatial.add(found.spatial)

    def moments(self) -> SetMoments:
        """The moments over all ranks. Every rank must call this, once.

        Raises:
            ValueError: there are fewer than two images; on every rank.
        """
        for part in filter(None, (self._pooled, self._spatial)):
            ranks.all_reduce_sum_(part.sums)
        return SetMoments(self._pooled.moments(), None if self._spatial is None else self._spatial.moments())


class ComparedSets:
    """Two sets of images that are compared: as they are, and as a network made them."""

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network
        self.real, self.made = SetSums(network), SetSums(network)

    def add(self, real: Tensor, made: Tensor, keys: list[str]) -> tuple[Features, Features]:
        """Take in (B, 3, H, W) uint8 images of some keys, and what was made for them; the features of both.

        Raises:
            ValueError: features are no finite numbers.
        """
        found = self.network.features(real, keys), self.network.features(made, keys)
        self.real.add(found[0])
        self.made.add(found[1])
        return found

    def figures(self, name: str) -> dict[str, float]:
        """The distances of both sets, with a warning where they are of too few images.

        Every rank must call this, once.

        Raises:
            ValueError: there are fewer than two images; on every rank.
        """
        real, made = self.real.moments(), self.made.moments()
        if ranks.rank() == 0:
            for line in few_samples(real.pooled.samples, self.network, name):
                warnings.warn(line, stacklevel=2)
        return distances(made, real, name)


def distances(made: SetMoments, reference: SetMoments, name: str) -> dict[str, float]:
    """The Frechet distance under a name and, where both sets have spatial features, ``sfid``. Computed on rank 0.

    Every rank must call this.
    """
    figures: dict[str, float] = {}
    if ranks.rank() == 0:
        figures[name] = frechet_distance(made.pooled, _beside(reference.pooled, made.pooled))
        if made.spatial is not None and reference.spatial is not None:
            figures["sfid"] = frechet_distance(made.spatial, _beside(reference.spatial, made.spatial))
    return ranks.broadcast_object(figures)


def few_samples(samples: int, network: FeatureNetwork, name: str) -> list[str]:
    """What must be said of a distance of so many samples."""
    if samples > network.dimensions:
        return []
    return [
        f"{name} is of {samples} samples in {network.dimensions} dimensions, too few for a covariance of full rank: it "
        f"is biased, and comparable with nothing; take {network.dimensions + 1} samples at least, 10 times as many to "
        "report"
    ]


def _beside(moments: Moments, other: Moments) -> Moments:
    """On the other's device."""
    device = other.mean.device
    return Moments(moments.samples, moments.mean.to(device), moments.covariance.to(device))
