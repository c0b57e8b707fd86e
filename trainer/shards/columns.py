"""The numbers of a shard's index as columns: each in the smallest type that holds it, and once where all are equal.

A shard of images and labels takes some 25 bytes a sample and its key this way. Offsets are not stored but distances to
the member before, which in a tar that was written in one go are the 512 bytes of a header.

Shapes: N samples, F kinds of members. Member columns are named KIND.NUMBER, the number being that of the extension.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Columns = dict[str, Numbers]

TYPES = ("|u1", "<u2", "<u4", "<i8")
OF_MEMBERS = ("distances", "sizes", "crcs", "layout_sizes")  # sizes are one more than they are; 0 is an absent member
OF_SAMPLES = ("heights", "widths", "orientations", "key_sizes")
TEXTS = ("keys", "layouts")
WIDE = {  # as indexes of the first format stored them, and as fingerprints see them for ever
    "offsets": "<i8",
    "sizes": "<i8",
    "crcs": "<u4",
    "heights": "<i4",
    "widths": "<i4",
    "orientations": "|u1",
    "key_ends": "<i8",
    "keys": "|u1",
    "layout_ends": "<i8",
    "layouts": "|u1",
}
_ORDER = ("key_ends", "keys", "heights", "widths")
_BLOCK = 512


def identity(wide: Mapping[str, Numbers]) -> int:
    """CRC-32 of wide arrays but the layouts, which carry checksums of their own."""
    return _crc(wide[name] for name in WIDE if name != "layouts")


def order_checksum(wide: Mapping[str, Numbers]) -> int:
    """CRC-32 of what decides the order and the crops of samples: their keys and the sizes of their images."""
    return _crc(wide[name] for name in _ORDER)


def checksum(columns: Mapping[str, Numbers]) -> int:
    """CRC-32 of columns as they are stored, but for the layouts."""
    return _crc(array for name, array in columns.items() if name != "layouts")


def _crc(arrays: Any) -> int:
    checked = 0
    for array in arrays:
        checked = zlib.crc32(np.ascontiguousarray(array).data.cast("B") if array.size else b"", checked)
    return checked


def at(column: Numbers, sample: int) -> int:
    """The number of a sample."""
    return int(column[sample if len(column) > 1 else 0])


def narrow(numbers: Numbers) -> Numbers:
    """The same whole numbers in the smallest type that holds them; a single one where all are equal."""
    if numbers.size > 1 and (numbers == numbers[0]).all():
        numbers = numbers[:1]
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    fitting = (name for name in TYPES if np.iinfo(name).min <= low and high <= np.iinfo(name).max)
    return numbers.astype(next(fitting))


def padded(size: Any) -> Any:
    """Bytes of a member in a tar, which is filled up to whole blocks."""
    return size + -size % _BLOCK


def tar_order(wide: Mapping[str, Numbers]) -> list[int]:
    """The numbers of the extensions in the order in which the fullest sample's members lie in the tar."""
    there = wide["sizes"] >= 0
    if not there.size:
        return list(range(there.shape[1]))
    fullest = int(there.sum(1).argmax())
    return sorted(range(there.shape[1]), key=lambda c: (not there[fullest, c], int(wide["offsets"][fullest, c]), c))


def packed(wide: Mapping[str, Numbers], order: Sequence[int]) -> Columns:
    """The columns of wide arrays, (N, F) and (N,)."""
    samples, kinds = wide["sizes"].shape
    layout_sizes = np.diff(wide["layout_ends"], prepend=0).reshape(samples, kinds)
    columns: Columns = {}
    place = np.zeros(samples, np.int64)
    for column in order:
        sizes = wide["sizes"][:, column]
        there = sizes >= 0
        begin = np.where(there, wide["offsets"][:, column], place)
        columns[f"distances.{column}"] = narrow(begin - place)
        columns[f"sizes.{column}"] = narrow(np.where(there, sizes + 1, 0))
        columns[f"crcs.{column}"] = narrow(wide["crcs"][:, column])
        columns[f"layout_sizes.{column}"] = narrow(layout_sizes[:, column])
        place = np.where(there, begin + padded(sizes), place)
    for name in OF_SAMPLES[:-1]:
        columns[name] = narrow(wide[name])
    columns["key_sizes"] = narrow(np.diff(wide["key_ends"], prepend=0))
    return columns | {name: wide[name] for name in TEXTS}


def check(columns: Mapping[str, Numbers], samples: int, order: Sequence[int], tar_bytes: int) -> None:
    """Makes sure that columns fit each other and their shard: the checksums may be a stranger's own.

    Raises:
        ValueError: they do not.
        KeyError: one is missing.
    """
    members = [f"{kind}.{column}" for kind in OF_MEMBERS for column in order]
    wrong = [name for name in (*members, *OF_SAMPLES) if columns[name].shape not in ((samples,), (min(samples, 1),))]
    if wrong or sorted(order) != list(range(len(order))) or len(columns) != len(members) + 6:
        raise ValueError(f"the columns {wrong} do not fit the samples")
    if any(columns[name].min(initial=0) < 0 for name in (*members[len(order) :], *OF_SAMPLES)):
        raise ValueError("a number is below zero")
    place = np.zeros(samples, np.int64)
    for column in order:
        sizes = np.broadcast_to(columns[f"sizes.{column}"].astype(np.int64) - 1, samples)
        there, begin = sizes >= 0, place + columns[f"distances.{column}"]
        if ((begin < 0) | (sizes > tar_bytes) | (begin > tar_bytes - np.minimum(sizes, tar_bytes)))[there].any():
            raise ValueError("a member lies outside of the tar")
        place = np.where(there, begin + padded(sizes), place)
    if max(columns["heights"].max(initial=0), columns["widths"].max(initial=0)) >= 1 << 31 or (
        columns["orientations"].max(initial=0) > 8
    ):
        raise ValueError("an image has a size or an orientation that none can have")
    layouts = sum(_total(columns[f"layout_sizes.{column}"], samples) for column in order)
    for name, held in (("keys", _total(columns["key_sizes"], samples)), ("layouts", layouts)):
        if columns[name].dtype != TYPES[0] or columns[name].shape != (held,):
            raise ValueError(f"the {name} do not fit their sizes")
    begins = begins_of(columns["key_sizes"], samples)
    filled = begins[:-1][np.diff(begins) > 0]
    if (columns["keys"][filled] & 0xC0 == 0x80).any():
        raise ValueError("a key begins within a letter")
    bytes(columns["keys"]).decode()


def begins_of(sizes: Numbers, samples: int) -> Numbers:
    """(N + 1,) where each of the texts of these sizes begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(np.broadcast_to(sizes, samples), dtype=np.int64)])


def _total(sizes: Numbers, samples: int) -> int:
    """The sum in Python's numbers, which know no overflow."""
    total: int = sizes.tolist()[0] * samples if len(sizes) == 1 else sum(sizes.tolist())
    return total
