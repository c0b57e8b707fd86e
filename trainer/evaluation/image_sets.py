"""Sets of images as the moments of their features, summed over ranks, and the distance of two sets.

Shapes: B images of H x W pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...models.metrics.moments import Moments, MomentSums, frechet_distance
from ..distributed import ranks
from ..files import check_own
from . import statistics_file
from .feature_networks import FeatureNetwork, Features
from .statistics_file import Statistics

ROUNDING = "8 bits, after clamping to [-1, 1]"
DECIDING = ("crop", "resize_filter", "rounding", "features_sha256")  # of a reference: as here, or no distance is one


class ReferenceFiles(NamedTuple):
    """Files of statistics of real images."""

    reference: Path | None = None  # to measure from, instead of the same samples
    save: Path | None = None  # to be written


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


def distances(made: SetMoments, reference: SetMoments | Statistics, name: str) -> dict[str, float]:
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


def checked_reference(files: ReferenceFiles, protocol: Mapping[str, Any], network: FeatureNetwork) -> Statistics | None:
    """The statistics that a set is to be compared with, where a file has them; looks at what is to be written, too.

    Raises:
        OSError, ValueError: they cannot be read, are of features of another length, or were made otherwise, which is
            named; or another file is where statistics are to be written.
    """
    if files.save is not None:
        check_own(files.save, statistics_file.MARK)
    if files.reference is None:
        return None
    path, reference = files.reference, statistics_file.read(files.reference)
    for moments, wanted, features in (
        (reference.pooled, network.dimensions, "features"),
        (reference.spatial, network.spatial, "spatial features"),
    ):
        if moments is not None and wanted not in (0, len(moments.mean)):
            raise ValueError(
                f"{path} has statistics of {len(moments.mean)} {features} and {network.name} gives {wanted}; name the "
                "network that they were made with"
            )
    said = reference.protocol
    changed = [
        f"{name.replace('_', ' ')} was {said.get(name)!r} and is {protocol.get(name)!r}"
        for name in DECIDING
        if said is not None and said.get(name) != protocol.get(name)
    ]
    if changed:
        raise ValueError(
            f"{path} was made with another protocol: {'; '.join(changed)}; make it anew with --save-statistics, or "
            "evaluate as it was made"
        )
    return reference


def save_reference(path: Path, real: SetMoments, protocol: Mapping[str, Any]) -> None:
    """Leave the statistics of real images for later evaluations; rank 0 writes. Every rank must call this.

    Raises:
        AgreedError: the file cannot be written, or another one is there.
    """
    said = {name: protocol[name] for name in (*DECIDING, "features", "data", "fingerprint") if name in protocol}

    def write() -> None:
        if ranks.rank() == 0:
            statistics_file.write(path, real.pooled, real.spatial, said)

    ranks.agreed(write)


def reference_protocol(path: Path | None, reference: Statistics | None) -> dict[str, Any]:
    """What a distance must say of what it is measured from."""
    if path is None or reference is None:
        return {"reference": "the real images of the same samples"}
    said = reference.protocol or {}
    made = {"reference": str(path), "reference_sha256": reference.digest}
    if not said:
        return made | {"reference_protocol": "not said by the file"}
    return made | {"reference_samples": said.get("samples"), "reference_fingerprint": said.get("fingerprint")}


def _beside(moments: Moments, other: Moments) -> Moments:
    """On the other's device."""
    device = other.mean.device
    return Moments(moments.samples, moments.mean.to(device), moments.covariance.to(device))
