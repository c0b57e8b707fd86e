"""Moments of the features of a reference set, in a ``.npz`` file as ADM's evaluator and pytorch-fid have it.

``mu`` and ``sigma`` are the mean and covariance, ``mu_s`` and ``sigma_s`` those of the spatial features of sFID. Files
of this project begin with ``smalti``, a JSON text that says how they were made; others say nothing of that.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models.metrics.moments import Moments
from .. import bounded_json
from ..files import open_regular, sha256, write_own
from ..frozen_networks.image_sets import SetMoments

LARGEST = 1 << 31  # bytes of one array: 16 384 features fit
NOTE = "smalti"  # the array of JSON
MARK = f"{NOTE}.npy".encode()  # near the beginning of every file of this project


class Statistics(NamedTuple):
    """What a set of images is compared with."""

    pooled: Moments
    spatial: Moments | None
    protocol: dict[str, Any] | None  # None: the file does not say
    digest: str  # of the file, SHA-256

    @property
    def moments(self) -> SetMoments:
        """Of both kinds of features."""
        return SetMoments(self.pooled, self.spatial)


def write(path: Path, pooled: Moments, spatial: Moments | None, protocol: Mapping[str, Any]) -> None:
    """Leave moments in a file; replaces only a file of this project.

    Raises:
        ValueError: another file is there.
    """
    said = json.dumps({**protocol, "samples": pooled.samples}, sort_keys=True).encode()
    arrays = {NOTE: np.frombuffer(said, np.uint8), "mu": _array(pooled.mean), "sigma": _array(pooled.covariance)}
    if spatial is not None:
        arrays |= {"mu_s": _array(spatial.mean), "sigma_s": _array(spatial.covariance)}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    write_own(path, packed.getvalue(), MARK)


def read(path: Path) -> Statistics:
    """The moments in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no moments, or such as cannot be.
    """
    with open(open_regular(path), "rb") as file:  # noqa: PTH123 (a descriptor)
        try:
            members = {member.filename: member.file_size for member in zipfile.ZipFile(file).infolist()}
            largest = max(members.get(f"{name}.npy", 0) for name in ("mu", "sigma", "mu_s", "sigma_s", NOTE))
            if largest > LARGEST:
                raise ValueError(f"an array of it has {largest} bytes, more than the {LARGEST} that are read")
            file.seek(0)
            with np.load(file, allow_pickle=False) as held:
                said = bounded_json.parsed(held[NOTE].tobytes()) if NOTE in held else None
                count = int(said["samples"]) if said else 0
                pooled = _moments(held["mu"], held["sigma"], count)
                spatial = _moments(held["mu_s"], held["sigma_s"], count) if "mu_s" in held else None
        except (KeyError, TypeError, ValueError, EOFError, MemoryError, OverflowError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is no file of statistics ({error}): it must be a .npz of mu (D,) and sigma (D, D); "
                "--save-statistics writes one"
            ) from None
    return Statistics(pooled, spatial, said, sha256(path))


def _moments(mean: Any, covariance: Any, count: int) -> Moments:
    mean, covariance = (torch.from_numpy(np.asarray(each, np.float64)) for each in (mean, covariance))
    if mean.dim() != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
        raise ValueError(f"mu has the shape {tuple(mean.shape)} and sigma {tuple(covariance.shape)}")
    if not bool(mean.isfinite().all()) or not bool(covariance.isfinite().all()):
        raise ValueError("it holds NaN or infinity")
    if not torch.allclose(covariance, covariance.t(), rtol=1e-6, atol=1e-9):
        raise ValueError("sigma is not symmetric")
    return Moments(count, mean, covariance)


def _array(values: Tensor) -> Any:
    return values.cpu().numpy()
