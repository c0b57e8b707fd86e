"""Samples in one ``.npz`` file as evaluators of ADM (Dhariwal and Nichol 2021) read it.

Shapes: N images of H x W pixels.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np

from .. import bounded_json
from ..files import open_regular, whole_file
from ..images.decode import open_image
from .image_files import read_metadata

CLASS = "class"  # of an image's metadata: the number of its class
_IMAGES = "images"  # of the archive's comment: how many there are
_NAMES = "names"  # of the archive's comment: the hash of where they lie, seen from the archive


def check_archive(path: Path) -> None:
    """Makes sure that nothing of a user's would be replaced.

    Raises:
        ValueError: something would.
    """
    if path.exists() and _IMAGES not in _comment(path):
        raise ValueError(f"{path} is there and was not written by this command; move it away, or choose another --out")


def write_archive(path: Path, images: Sequence[Path]) -> Path:
    """Write ``arr_0``, (N, H, W, 3) uint8, and ``arr_1``, (N,) int64, the classes where all images tell theirs.

    One image is in memory at a time; the file is there whole or not at all.

    Returns:
        The file; where an archive of other images has the name, one with a number behind it.

    Raises:
        ValueError: images differ in size, or a file that is no such archive has the name.
    """
    check_archive(path)
    names = hashlib.sha256(
        json.dumps([image.relative_to(path.parent).as_posix() for image in images]).encode()
    ).hexdigest()
    places = (path if number == 1 else path.with_stem(f"{path.stem}-{number}") for number in count(1))
    path = next(place for place in places if not place.exists() or _comment(place).get(_NAMES) == names)
    with open_image(images[0]) as first:
        width, height = first.size
    labels = [read_metadata(image).get(CLASS) for image in images]
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            _header(member, (len(images), height, width, 3), np.uint8)
            for image in images:
                with open_image(image) as opened:
                    if opened.size != (width, height):
                        raise ValueError(
                            f"{path} would hold images of different sizes: {images[0]} of {width} x {height} and "
                            f"{image} of {opened.width} x {opened.height}; ask for one --size"
                        )
                    member.write(np.asarray(opened.convert("RGB")).tobytes())
        if all(label is not None for label in labels):
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                _header(member, (len(images),), np.int64)
                member.write(np.array(labels, np.int64).tobytes())
        archive.comment = json.dumps({_IMAGES: len(images), _NAMES: names}).encode()
    return path


def _header(member: IO[bytes], shape: Iterable[int], dtype: type[np.generic]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(member, described)


def _comment(path: Path) -> dict[str, Any]:
    """What an archive says of itself; nothing where it is not of this module."""
    try:
        with open(open_regular(path), "rb") as file, zipfile.ZipFile(file) as archive:  # noqa: PTH123 (a descriptor)
            said = bounded_json.parsed(archive.comment)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return said if isinstance(said, dict) else {}
