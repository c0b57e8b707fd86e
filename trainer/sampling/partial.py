"""Images that are still being sampled, kept in files, so that a run that is killed goes on where it was."""

import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models.sampling import UNFILLED, SamplingState
from ..files import part_of, read_regular, write_whole

_LOG = logging.getLogger(__name__)
_SPARE = 1 << 16  # bytes of a file beside its numbers


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


def save_all(images: Sequence[Path], request_digests: Sequence[str], state: SamplingState) -> None:
    """Write what is sampled of images that are sampled together."""
    for codes, scores, image, digest in zip(state.codes, state.scores, images, request_digests, strict=True):
        save(image, digest, PartialSample(codes, scores))


def find_all(
    images: Sequence[Path], request_digests: Sequence[str], size: tuple[int, int], codes: int
) -> SamplingState | None:
    """What was sampled of images that are sampled together; nothing where nothing was of any. See ``find``."""
    found = [find(image, digest, size, codes) for image, digest in zip(images, request_digests, strict=True)]
    if not any(found):
        return None
    nothing = PartialSample(torch.full(size, UNFILLED, dtype=torch.int64), torch.zeros(size))
    grids, scores = zip(*[each or nothing for each in found], strict=True)
    return SamplingState(torch.stack(grids), torch.stack(scores), 0, 0)


def find(image: Path, request_digest: str, size: tuple[int, int], codes: int) -> PartialSample | None:
    """What was sampled of this request; nothing where another image was to come there, or the file is damaged.

    Args:
        size: rows and columns of the grid.
        codes: that there are; the file must name no others.
    """
    place = path_of(image)
    if not place.exists():
        return None
    try:
        return _read(place, request_digest, size, codes)
    except Exception as error:  # of a damaged archive nearly any; it costs what was sampled, and no more
        _LOG.warning("%s is damaged (%s): %s is sampled from its beginning", place, error, image)
        return None


def _read(place: Path, request_digest: str, size: tuple[int, int], codes: int) -> PartialSample | None:
    limit = 8 * size[0] * size[1] + _SPARE
    data = io.BytesIO(read_regular(place, limit))
    with zipfile.ZipFile(data) as members:
        if sum(member.file_size for member in members.infolist()) > limit:
            raise ValueError("it unfolds to more than such a grid takes")
    with np.load(data, allow_pickle=False) as held:
        if str(held["request"]) != request_digest:
            return None
        found = PartialSample(torch.from_numpy(held["codes"]).long(), torch.from_numpy(held["scores"]).float())
    if found.codes.shape != size or found.scores.shape != size:
        raise ValueError(f"it holds grids of {tuple(found.codes.shape)}, not of {size}")
    if found.codes.min() < UNFILLED or found.codes.max() >= codes:
        raise ValueError(f"it holds codes beyond the {codes} that there are")
    return found


def remove(image: Path) -> None:
    """The image is finished: what was kept of it goes, and what killed processes were just writing of it."""
    path_of(image).unlink(missing_ok=True)
    for path in (image, path_of(image)):
        part_of(path).unlink(missing_ok=True)
