"""Label maps and depth in tiles, so that a crop costs as little as that of a crop-seekable JPEG.

The file is an ordinary tiled TIFF (TIFF 6.0, section 15) with deflate, which any program reads; its table of tiles is
kept in the index too, with a checksum of each.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..files import ChecksumError
from .decode import Pixels
from .geometry import ReadMany, Region

TYPES = ("|u1", "<u2", "<f4")  # what Pillow reads back as it was
_SIDE = 128  # of a tile; TIFF wants a multiple of 16
_HEAD = struct.Struct("<IIHH")
_SHORT, _LONG = 3, 4  # kinds of numbers in a TIFF


@dataclass(frozen=True)
class TileLayout:
    """Where the tiles of a map lie.

    Attributes:
        height, width: in pixels.
        kind: of the numbers, as an index of TYPES.
        ends: (tiles,) one past the last byte of each tile in the file, row by row.
        crcs: (tiles,) CRC-32 of each tile as it is stored.
    """

    height: int
    width: int
    kind: int
    first: int
    ends: npt.NDArray[np.uint32]
    crcs: npt.NDArray[np.uint32]

    def to_bytes(self) -> bytes:
        """For the index."""
        head = _HEAD.pack(self.height, self.width, self.kind, self.first)
        return head + self.ends.tobytes() + self.crcs.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "TileLayout":
        """From the index."""
        height, width, kind, first = _HEAD.unpack_from(data)
        ends, crcs = np.frombuffer(data, "<u4", offset=_HEAD.size).reshape(2, -1)
        return cls(height, width, kind, first, ends, crcs)


def tiled(numbers: Pixels) -> tuple[bytes, TileLayout]:
    """(H, W) numbers of one of TYPES as a TIFF, and where its tiles lie."""
    kind = TYPES.index(numbers.dtype.newbyteorder("<").str)
    packed = [zlib.compress(tile, 6) for tile in _tiles(numbers.astype(TYPES[kind]))]
    height, width = numbers.shape
    # The tiles come first: their offsets are known before the table that follows them is written.
    first = 8
    ends = (first + np.cumsum([len(tile) for tile in packed])).astype("<u4")
    crcs = np.array([zlib.crc32(tile) for tile in packed], "<u4")
    layout = TileLayout(height, width, kind, first, ends, crcs)
    body = b"".join(packed)
    body += bytes(len(body) % 2)  # the table must begin at an even place
    return struct.pack("<2sHI", b"II", 42, first + len(body)) + body + _directory(layout, first + len(body)), layout


def cut(layout: TileLayout, read_many: ReadMany, region: Region) -> Pixels:
    """(h, w) numbers of a region, from the tiles that it touches alone.

    Raises:
        ChecksumError: a tile is not as it was packed.
        zlib.error, ValueError: a tile cannot be unpacked.
    """
    across = -(-layout.width // _SIDE)
    rows = range(region.top // _SIDE, -(-region.bottom // _SIDE))
    columns = range(region.left // _SIDE, -(-region.right // _SIDE))
    numbers = [row * across + column for row in rows for column in columns]
    starts = [int(layout.ends[number - 1]) if number else layout.first for number in numbers]
    ranges = [(start, int(layout.ends[number]) - start) for number, start in zip(numbers, starts, strict=True)]
    canvas = np.empty((len(rows) * _SIDE, len(columns) * _SIDE), TYPES[layout.kind])
    for place, (number, data) in enumerate(zip(numbers, read_many(ranges), strict=True)):
        if zlib.crc32(data) != layout.crcs[number]:
            raise ChecksumError(f"tile {number} at byte {starts[place]} has a wrong CRC")
        tile = np.frombuffer(zlib.decompress(data), canvas.dtype).reshape(_SIDE, _SIDE)
        top, left = place // len(columns) * _SIDE, place % len(columns) * _SIDE
        canvas[top : top + _SIDE, left : left + _SIDE] = tile
    top, left = region.top - rows.start * _SIDE, region.left - columns.start * _SIDE
    return canvas[top : top + region.height, left : left + region.width]


def _tiles(numbers: Pixels) -> list[bytes]:
    """The bytes of each tile, row by row; those at the border are filled up with the nearest numbers."""
    height, width = numbers.shape
    filled = np.pad(numbers, ((0, -height % _SIDE), (0, -width % _SIDE)), mode="edge")
    return [
        filled[top : top + _SIDE, left : left + _SIDE].tobytes()
        for top in range(0, height, _SIDE)
        for left in range(0, width, _SIDE)
    ]


def _directory(layout: TileLayout, place: int) -> bytes:
    """The table of a TIFF's properties, which stands at ``place``, and the numbers it points to."""
    kind = np.dtype(TYPES[layout.kind])
    starts = [layout.first, *layout.ends[:-1].tolist()]
    sizes = np.diff(layout.ends, prepend=layout.first).tolist()
    properties = [
        (256, _LONG, [layout.width]),
        (257, _LONG, [layout.height]),
        (258, _SHORT, [8 * kind.itemsize]),
        (259, _SHORT, [8]),  # deflate
        (262, _SHORT, [1]),  # 0 is black
        (277, _SHORT, [1]),  # channels
        (322, _SHORT, [_SIDE]),
        (323, _SHORT, [_SIDE]),
        (324, _LONG, starts),
        (325, _LONG, sizes),
        (339, _SHORT, [3 if kind.kind == "f" else 1]),
    ]
    entries, extra = b"", b""
    after = place + 2 + 12 * len(properties) + 4
    for tag, sort, values in properties:
        said = struct.pack(f"<{len(values)}{'H' if sort == _SHORT else 'I'}", *values)
        if len(said) > 4:
            said, extra = struct.pack("<I", after + len(extra)), extra + said
        entries += struct.pack("<HHI", tag, sort, len(values)) + said.ljust(4, b"\0")
    return struct.pack("<H", len(properties)) + entries + bytes(4) + extra
