"""Statistics of real images that a set is compared with: read from files, made with the same protocol, or written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..distributed import ranks
from ..files import check_own
from ..frozen_networks.feature_networks import FeatureNetwork
from ..frozen_networks.image_sets import SetMoments, few_samples
from . import statistics_file
from .statistics_file import Statistics

ROUNDING = "8 bits, after clamping to [-1, 1]"
DECIDING = ("crop", "resize_filter", "rounding", "features_sha256")  # of a reference: as here, or no distance is one


class ReferenceFiles(NamedTuple):
    """Files of statistics of real images."""

    reference: Path | None = None  # to measure from, instead of the same samples
    save: Path | None = None  # to be written


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


def few_on_either_side(samples: int, reference: Statistics | None, network: FeatureNetwork, name: str) -> list[str]:
    """What must be said of a distance of so many samples, and of its reference where that says how many it is of."""
    said = few_samples(samples, network, name)
    if reference is not None and reference.pooled.samples:
        said += few_samples(reference.pooled.samples, network, "the reference")
    return said


def reference_protocol(path: Path | None, reference: Statistics | None) -> dict[str, Any]:
    """What a distance must say of what it is measured from."""
    if path is None or reference is None:
        return {"reference": "the real images of the same samples"}
    said = reference.protocol or {}
    made = {"reference": str(path), "reference_sha256": reference.digest}
    if not said:
        return made | {"reference_protocol": "not said by the file"}
    return made | {"reference_samples": said.get("samples"), "reference_fingerprint": said.get("fingerprint")}
