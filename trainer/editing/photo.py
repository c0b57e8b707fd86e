"""What a user gives for an edit: a photo, its label map, the map as edited, a mask; checked before computing begins.

Shapes: one photo of H x W pixels.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..files import read_regular
from ..images.decode import LARGEST, Pixels, decode_map, decode_with_alpha, open_image
from ..images.known_values import Check, OutOfRangeError

Array = npt.NDArray[np.uint8]


class Photo(NamedTuple):
    """A photo, upright, with 8 bits a channel."""

    colors: Array  # (H, W, 3)
    alpha: Array | None  # (H, W), of a photo with transparency


class PhotoEdit(NamedTuple):
    """What is to be made anew of a photo, and by which map."""

    photo: Photo
    labels: Pixels  # (H, W), as edited
    before: Pixels  # (H, W), as they were
    masked: npt.NDArray[np.bool_]  # (H, W), true where pixels are to be made anew
    notes: list[str]  # for the user

    def digest(self) -> str:
        """The SHA-256 of all that decides what is made: the photo, the maps and what is masked."""
        found = hashlib.sha256(repr(self.labels.shape).encode())
        for part in (self.photo.colors, self.labels.astype("<i8"), self.before.astype("<i8"), self.masked):
            found.update(np.ascontiguousarray(part).tobytes())
        if self.photo.alpha is not None:
            found.update(self.photo.alpha.tobytes())
        return found.hexdigest()


def read_photo_edit(image: Path, segmentation: Path, edited: Path | None, mask: Path | None, check: Check) -> PhotoEdit:
    """The edit that files describe: what differs between the two maps is made anew, and what a mask marks.

    Args:
        image: the photo, of any mode that training reads; transparency is kept as it is.
        segmentation: its label map.
        edited: the map as it is to become, with any number of classes changed; by default the same.
        mask: every pixel that is neither black nor transparent is made anew.
        check: of the labels.

    Raises:
        ValueError: a file cannot be used, sizes differ, or a label is unknown.
    """
    if edited is None and mask is None:
        raise ValueError("say what is to be made anew: the edited map with --edited, a mask with --mask, or both")
    photo = read_photo(image)
    before = read_map(segmentation, photo, check)
    after = before if edited is None else read_map(edited, photo, check)
    masked, notes = before != after, []
    if mask is not None:
        drawn = _mask_of(mask, photo)
        gray = int(((drawn > 0) & (drawn < drawn.max())).sum())
        if gray:
            notes.append(f"{mask}: {gray} pixels are gray; every pixel that is not black is made anew")
        masked = masked | (drawn > 0)
    return PhotoEdit(photo, after, before, masked, notes)


def read_photo(path: Path) -> Photo:
    """A photo, upright: of any number of channels or bits, its colors as training decodes them.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        data = read_regular(path, LARGEST)
        whole = decode_with_alpha(data)
        with open_image(data, header_only=True) as opened:
            transparent = opened.has_transparency_data
        alpha = np.ascontiguousarray(whole[..., 3]) if transparent else None
        return Photo(np.ascontiguousarray(whole[..., :3]), alpha)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the photo {path} cannot be used: {error}") from error


def read_map(path: Path, photo: Photo, check: Check) -> Pixels:
    """(H, W) labels of a photo.

    Raises:
        ValueError: the map cannot be read, has another size than the photo, or a label is unknown.
    """
    try:
        labels = decode_map(read_regular(path, LARGEST))
        check(labels)
    except OutOfRangeError as error:
        raise ValueError(f"the map {path} has a label that the prior does not know: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the map {path} cannot be used: {error}") from error
    _check_size("map", path, labels.shape, photo)
    return labels


def _mask_of(path: Path, photo: Photo) -> Pixels:
    """(H, W) uint8, 0 where a mask is black or transparent."""
    try:
        pixels = decode_with_alpha(read_regular(path, LARGEST))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the mask {path} cannot be used: {error}") from error
    _check_size("mask", path, pixels.shape[:2], photo)
    return np.where(pixels[..., 3] > 0, pixels[..., :3].max(axis=2), 0)  # what lies below transparency is anything


def _check_size(what: str, path: Path, shape: tuple[int, ...], photo: Photo) -> None:
    if shape != photo.colors.shape[:2]:
        height, width = photo.colors.shape[:2]
        raise ValueError(
            f"the {what} {path} must have the photo's {height} x {width} pixels (rows x columns, upright), got "
            f"{shape[0]} x {shape[1]}; resize it without smoothing"
        )


def as_image(colors: Array, photo: Photo) -> Image.Image:
    """Colors with the photo's transparency, if it has any."""
    return Image.fromarray(colors if photo.alpha is None else np.dstack((colors, photo.alpha)))
