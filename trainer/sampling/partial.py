"""Images that are still being sampled, kept in files, so that a run that is killed goes on where it was."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..files import write_whole


class PartialSample(NamedTuple):
    """What is sampled of one image so far."""

    codes: Tensor  # (h, w) int64, UNKNOWN where it is still to be sampled
    scores: Tensor  # (h, w) float32, as in ``Sampling``


def path_of(image: Path) -> Path:
    """Where the unfinished codes of an image lie: beside it, hidden."""
    return image.with_name(f".{image.name}.unfinished.npz")


def save(image: Path, request_digest: str, so_far: PartialSample) -> None:
    """Write what is sampled; ``request_digest`` names everything that decides which image it will be."""
    packed = io.BytesIO()
    codes = so_far.codes.cpu().numpy().astype(np.int32)
    np.savez(packed, request=request_digest, codes=codes, scores=so_far.scores.cpu().numpy())
    write_whole(path_of(image), packed.getvalue())


def find(image: Path, request_digest: str) -> PartialSample | None:
    """What was sampled of this request; nothing where another image was to come there."""
    if not path_of(image).exists():
        return None
    with np.load(path_of(image), allow_pickle=False) as held:
        if str(held["request"]) != request_digest:
            return None
        return PartialSample(torch.from_numpy(held["codes"]).long(), torch.from_numpy(held["scores"]))


def remove(image: Path) -> None:
    """The image is finished: what was kept of it goes, and what killed processes were just writing of it."""
    path_of(image).unlink(missing_ok=True)
    for part in image.parent.glob(f".*{image.stem}.*.part"):
        part.unlink(missing_ok=True)
