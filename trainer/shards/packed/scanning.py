"""The columns of a packed shard out of its tar alone, for a shard whose index is gone."""

import io
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ... import bounded_json
from .layout import CHECKSUM, FORMAT, KEYS, Column, is_checked_by_row


class Found(NamedTuple):
    """What a packed tar holds."""

    keys: list[str]
    columns: list[Column]


def columns_in(files: Mapping[str, tuple[int, bytes]]) -> Found:
    """The samples and columns of a packed tar.

    Args:
        files: where each file begins in the tar, and its bytes, by its extension.

    Raises:
        ValueError: the files are not those of a packed shard, or do not fit each other.
    """
    said = bounded_json.parsed(files[KEYS][1])
    keys = said.get("keys") if isinstance(said, dict) and said.get("format") == FORMAT else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError(f"{KEYS} names no samples, or is of another version")
    columns, checked, crcs = [], {}, {}
    for extension, (offset, data) in files.items():
        if extension == KEYS:
            continue
        array = np.load(io.BytesIO(data), allow_pickle=False)
        name = extension.removesuffix(".npy")
        if array.shape[:1] != (len(keys),):
            raise ValueError(f".{extension} has {array.shape[:1]} rows for {len(keys)} samples")
        columns.append(
            Column(name, array.dtype.str, array.shape[1:], offset + len(data) - array.nbytes, zlib.crc32(array))
        )
        if name.endswith(CHECKSUM):
            crcs[name.removesuffix(CHECKSUM)] = array
        elif is_checked_by_row(array.nbytes, len(keys)):
            checked[name] = np.array([zlib.crc32(row) for row in array], "<u4")
    for name, right in checked.items():
        if name not in crcs or not np.array_equal(crcs[name], right):
            raise ValueError(f"rows of {name} do not fit their checksums")
    return Found(keys, columns)
