"""Images too large for a PNG: a tiled BigTIFF that is written from top to bottom, and never held as a whole.

Ordinary programs read it (libtiff from version 4, Pillow, GDAL, vips). TIFF 6.0, section 15, with the 64-bit tables of
the BigTIFF proposal and deflate.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

SIDE = 256  # of a tile, in pixels
_ASCII, _SHORT, _LONG8 = 2, 3, 16  # kinds of numbers
_PACKING = {_ASCII: "B", _SHORT: "H", _LONG8: "Q"}


def write(file: BinaryIO, bands: Iterable[npt.NDArray[np.uint8]], size: tuple[int, int], description: str) -> None:
    """Write an image.

    Args:
        file: open at its beginning, and able to seek.
        bands: (rows, W, 3) from top to bottom, of any number of rows each.
        size: H and W in pixels.
        description: kept as the image's ImageDescription, ASCII.

    Raises:
        ValueError: the bands have not H rows of W pixels in all.
    """
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))  # the place of the table is written at the end
    starts, sizes = [], []
    place = 16
    for rows in _rows_of_tiles(bands, size):
        for left in range(0, size[1], SIDE):
            packed = zlib.compress(np.ascontiguousarray(rows[:, left : left + SIDE]).tobytes(), 6)
            file.write(packed)
            starts.append(place)
            sizes.append(len(packed))
            place += len(packed)
    file.write(bytes(-place % 8))
    table = place + -place % 8
    file.write(_table(table, size, starts, sizes, description))
    file.seek(8)
    file.write(struct.pack("<Q", table))


def _rows_of_tiles(bands: Iterable[npt.NDArray[np.uint8]], size: tuple[int, int]) -> Iterable[npt.NDArray[np.uint8]]:
    """(SIDE, W filled up to tiles, 3) from bands of any height; what lies beyond the image repeats its border."""
    height, width = size
    held = np.empty((0, width, 3), np.uint8)
    seen = 0
    for band in bands:
        if band.shape[1:] != (width, 3):
            raise ValueError(f"a band must be (rows, {width}, 3), got {band.shape}")
        seen += len(band)
        held = np.concatenate([held, band])
        while len(held) >= SIDE:
            yield _filled(held[:SIDE])
            held = held[SIDE:]
    if seen != height:
        raise ValueError(f"the bands must have {height} rows in all, got {seen}")
    if len(held):
        yield _filled(held)


def _filled(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.pad(rows, ((0, -len(rows) % SIDE), (0, -rows.shape[1] % SIDE), (0, 0)), mode="edge")


def _table(place: int, size: tuple[int, int], starts: list[int], sizes: list[int], description: str) -> bytes:
    """The table of the image's properties, which stands at ``place``, and the numbers it points to."""
    properties: list[tuple[int, int, list[int]]] = [
        (256, _LONG8, [size[1]]),
        (257, _LONG8, [size[0]]),
        (258, _SHORT, [8, 8, 8]),  # bits
        (259, _SHORT, [8]),  # deflate
        (262, _SHORT, [2]),  # RGB
        (270, _ASCII, [*description.encode("ascii"), 0]),
        (277, _SHORT, [3]),  # channels
        (284, _SHORT, [1]),  # of one pixel side by side
        (322, _SHORT, [SIDE]),
        (323, _SHORT, [SIDE]),
        (324, _LONG8, starts),
        (325, _LONG8, sizes),
    ]
    entries, extra = b"", b""
    after = place + 8 + 20 * len(properties) + 8
    for tag, kind, values in properties:
        said = struct.pack(f"<{len(values)}{_PACKING[kind]}", *values)
        if len(said) > 8:
            said, extra = struct.pack("<Q", after + len(extra)), extra + said + bytes(-len(said) % 8)
        entries += struct.pack("<HHQ", tag, kind, len(values)) + said.ljust(8, b"\0")
    return struct.pack("<Q", len(properties)) + entries + bytes(8) + extra
