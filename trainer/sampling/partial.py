"""Pictures that are still being painted, kept in files, so that a run that is killed goes on where it was."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..files import write_whole


class Unfinished(NamedTuple):
    """What is painted of one picture so far."""

    codes: Tensor  # (h, w) int64, UNKNOWN where it is still to be painted
    scores: Tensor  # (h, w) float32, as in ``Painting``


def place(picture: Path) -> Path:
    """Where the unfinished codes of a picture lie: beside it, hidden."""
    return picture.with_name(f".{picture.name}.unfinished.npz")


def keep(picture: Path, wish: str, so_far: Unfinished) -> None:
    """Write what is painted; ``wish`` names everything that decides which picture it will be."""
    packed = io.BytesIO()
    codes = so_far.codes.cpu().numpy().astype(np.int32)
    np.savez(packed, wish=wish, codes=codes, scores=so_far.scores.cpu().numpy())
    write_whole(place(picture), packed.getvalue())


def find(picture: Path, wish: str) -> Unfinished | None:
    """What was painted of this wish; nothing where another picture was to come there."""
    if not place(picture).exists():
        return None
    with np.load(place(picture), allow_pickle=False) as held:
        if str(held["wish"]) != wish:
            return None
        return Unfinished(torch.from_numpy(held["codes"]).long(), torch.from_numpy(held["scores"]))


def forget(picture: Path) -> None:
    """The picture is finished: what was kept of it goes, and what killed processes were just writing of it."""
    place(picture).unlink(missing_ok=True)
    for part in picture.parent.glob(f".*{picture.stem}.*.part"):
        part.unlink(missing_ok=True)
