"""Crop-seekable JPEGs: ordinary baseline files whose restart markers let a part be decoded alone.

A restart marker resets the decoder every few MCUs (minimum coded units: 8 x 8 to 32 x 32 pixels). When the interval
divides the MCUs of a row, any rectangle of whole segments can be cut out of the compressed data and put together as a
smaller file: ITU-T T.81, sections B.2.4.4 and F.2.1.3.1. The pixels of the part are bit-equal to those of the whole.

Letters: a segment is what lies between two markers; the image has rows of MCUs, each of ``across`` segments.
"""

import struct
import subprocess
import sys
import zlib
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL

from ..files import ChecksumError
from . import jpeg_rewriter
from .geometry import ReadMany, Region

BEGIN = b"\xff\xd8"  # of every JPEG
_SECONDS = 600  # for rewriting; a gigapixel takes some fifteen
_BEST_INTERVAL = 8  # MCUs; shorter ones cost space, longer ones make more be decoded than is needed
_SMALLEST_INTERVAL = 6
_MARKER = 2  # bytes
_MARGIN = 2  # source pixels; smooth upsampling of color looks one color sample further, 2 pixels at most
_TAIL = 1 << 16  # bytes in which a sound file has its end
_HEAD = struct.Struct("<IIHHIHI")


class _Frame(NamedTuple):
    """What the headers of a JPEG say."""

    height: int
    width: int
    mcu_height: int
    mcu_width: int
    interval: int  # MCUs between restart markers; 0 for none
    size_at: int  # where the height and width stand
    scan: int  # where the compressed data begin
    one_scan: bool  # baseline, with all components together


@dataclass(frozen=True)
class JpegLayout:
    """Where the segments of a crop-seekable JPEG lie.

    Attributes:
        height, width: in pixels, as stored: before any EXIF orientation.
        header: everything before the compressed data.
        sizes: (segments,) bytes of each segment, without its marker.
        crcs: (segments,) CRC-32 of each.
    """

    height: int
    width: int
    mcu_height: int
    mcu_width: int
    interval: int
    size_at: int
    header: bytes
    sizes: npt.NDArray[np.uint16]
    crcs: npt.NDArray[np.uint32]

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(segments,) first byte of each segment in the file."""
        steps = self.sizes[:-1].astype(np.int64) + _MARKER
        return np.concatenate([[0], np.cumsum(steps)]) + len(self.header)

    @property
    def across(self) -> int:
        """Segments in a row of MCUs."""
        return -(-self.width // self.mcu_width) // self.interval

    def to_bytes(self) -> bytes:
        """For the index."""
        sizes = self.mcu_height, self.mcu_width, self.interval, self.size_at, len(self.header)
        head = _HEAD.pack(self.height, self.width, *sizes)
        return head + self.header + self.sizes.tobytes() + self.crcs.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "JpegLayout":
        """From the index."""
        height, width, mcu_height, mcu_width, interval, size_at, length = _HEAD.unpack_from(data)
        first = _HEAD.size + length
        count = (len(data) - first) // 6
        sizes = np.frombuffer(data, "<u2", count, first)
        crcs = np.frombuffer(data, "<u4", count, first + 2 * count)
        return cls(height, width, mcu_height, mcu_width, interval, size_at, data[_HEAD.size : first], sizes, crcs)


class Spliced(NamedTuple):
    """A small JPEG cut out of a large one, and the pixels of the large one that it shows."""

    data: bytes
    shows: Region


def splice(layout: JpegLayout, read_many: ReadMany, region: Region) -> Spliced:
    """The smallest JPEG whose inner pixels are those of a region, from the segments that it touches alone.

    Raises:
        ChecksumError: a segment is not as it was packed.
    """
    step = layout.mcu_width * layout.interval
    first = max(region.left - _MARGIN, 0) // step
    last = min(-(-(region.right + _MARGIN) // step), layout.across)
    rows = -(-layout.height // layout.mcu_height)
    top = max(region.top - _MARGIN, 0) // layout.mcu_height
    bottom = min(-(-(region.bottom + _MARGIN) // layout.mcu_height), rows)
    shows = Region(
        first * step,
        top * layout.mcu_height,
        min(last * step, layout.width),
        min(bottom * layout.mcu_height, layout.height),
    )
    segments = _read(layout, read_many, first, last, range(top, bottom))
    height, width = shows.height, shows.width
    sizes = struct.pack(">HH", height, width)
    header = layout.header[: layout.size_at] + sizes + layout.header[layout.size_at + 4 :]
    parts = [header]
    for number, segment in enumerate(segments):
        parts += [segment, bytes((0xFF, 0xD0 + number % 8))]
    parts[-1] = b"\xff\xd9"  # the end of the image in place of the last restart
    return Spliced(b"".join(parts), shows)


def _read(layout: JpegLayout, read_many: ReadMany, first: int, last: int, rows: range) -> list[bytes]:
    """The segments of a rectangle, row by row, each checked."""
    begins = [row * layout.across + first for row in rows]
    ends = [row * layout.across + last - 1 for row in rows]
    starts, sizes = layout.starts, layout.sizes
    ranges = [
        (int(starts[a]), int(starts[b]) + int(sizes[b]) - int(starts[a])) for a, b in zip(begins, ends, strict=True)
    ]
    segments = []
    for begin, (place, _), data in zip(begins, ranges, read_many(ranges), strict=True):
        for number in range(begin, begin + last - first):
            inside = int(starts[number]) - place
            segment = data[inside : inside + int(sizes[number])]
            if zlib.crc32(segment) != layout.crcs[number]:
                raise ChecksumError(f"segment {number} at byte {starts[number]} has a wrong CRC")
            segments.append(segment)
    return segments


def layout_of(data: bytes) -> JpegLayout | None:
    """The segments of a JPEG, or None if its parts cannot be decoded alone.

    That needs a baseline file with all components in one scan, and restart markers that also fall on every row's end.
    """
    frame = _frame(data)
    if frame is None or not frame.one_scan or not frame.interval:
        return None
    mcus = -(-frame.width // frame.mcu_width)
    if mcus % frame.interval:
        return None
    body = np.frombuffer(data, np.uint8, offset=frame.scan)
    marks = np.flatnonzero((body[:-1] == 0xFF) & (body[1:] != 0)) + frame.scan
    kinds = np.frombuffer(data, np.uint8)[marks + 1]
    count = mcus // frame.interval * -(-frame.height // frame.mcu_height)
    expected = [0xD0 + number % 8 for number in range(count - 1)] + [0xD9]
    if len(kinds) < count or not np.array_equal(kinds[:count], expected):
        return None
    ends = marks[:count]
    starts = np.concatenate([[frame.scan], ends[:-1] + _MARKER])
    sizes = ends - starts
    if sizes.max() >= 1 << 16:
        return None
    crcs = np.array([zlib.crc32(data[start:end]) for start, end in zip(starts, ends, strict=True)], "<u4")
    return JpegLayout(
        frame.height,
        frame.width,
        frame.mcu_height,
        frame.mcu_width,
        frame.interval,
        frame.size_at,
        data[: frame.scan],
        sizes.astype("<u2"),
        crcs,
    )


def _frame(data: bytes) -> _Frame | None:
    """What the headers up to the first scan say, or None for files of 12 bits or no JPEGs."""
    size_at = interval = 0
    baseline = False
    sampling: list[tuple[int, int]] = []  # (down, across) of each component
    place = 2
    while data.startswith(BEGIN) and place + 4 <= len(data) and data[place] == 0xFF:
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if length < 2 or place + 12 + length > len(data):
            return None  # cut off
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            if data[place + 4] != 8:
                return None
            size_at, baseline = place + 5, kind in (0xC0, 0xC1)
            factors = data[place + 11 : place + 10 + 3 * data[place + 9] : 3]
            sampling = [(factor & 15, factor >> 4) for factor in factors]
        elif kind == 0xDD:
            interval = int.from_bytes(data[place + 4 : place + 6], "big")
        elif kind == 0xDA and sampling:
            one_scan = baseline and data[place + 4] == len(sampling) and len(sampling) in (1, 3)
            alone = len(sampling) == 1  # the MCU of a single component is one block, whatever its factors
            down, across = (1, 1) if alone else (max(v for v, _ in sampling), max(h for _, h in sampling))
            height, width = struct.unpack_from(">HH", data, size_at)
            return _Frame(height, width, 8 * down, 8 * across, interval, size_at, place + 2 + length, one_scan)
        place += 2 + length
    return None


def shortened(data: bytes, rows: int) -> bytes | None:
    """A baseline JPEG made to end after its first ``rows`` of pixels, by its header alone: the rest is not decoded.

    Those rows keep their pixels. None for progressive files, which must be decoded whole, for files that are cut off,
    and where nothing is saved.
    """
    frame = _frame(data)
    if frame is None or not frame.one_scan or data.rfind(b"\xff\xd9", max(len(data) - _TAIL, 0)) < 0:
        return None
    height = -(-(rows + _MARGIN) // frame.mcu_height) * frame.mcu_height
    if height >= frame.height:
        return None
    changed = bytearray(data)
    struct.pack_into(">H", changed, frame.size_at, height)
    return bytes(changed)


@lru_cache
def library() -> str | None:
    """The libjpeg by which JPEGs are rewritten: that of Pillow's wheel, else the system's."""
    beside = Path(PIL.__file__).parent
    bundled = [*beside.parent.glob("[Pp]illow.libs/libjpeg-*.so*"), *beside.glob(".dylibs/libjpeg.*.dylib")]
    return str(bundled[0]) if bundled else find_library("jpeg")


def seekable(data: bytes) -> bytes | None:
    """The same coefficients with restart markers, baseline and with optimal Huffman tables; metadata are dropped.

    None if there is no libjpeg, or it refuses the file.
    """
    path, frame = library(), _frame(data)
    if path is None or frame is None:
        return None
    interval = _interval(-(-frame.width // frame.mcu_width))
    command = [sys.executable, "-I", "-S", jpeg_rewriter.__file__, path, str(interval)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 and not done.stderr else None


def _interval(mcus: int) -> int:
    """MCUs between restarts: a divisor of the MCUs in a row, so that every row begins a segment."""
    divisors = [number for number in range(1, mcus + 1) if mcus % number == 0]
    large = [number for number in divisors if number >= _SMALLEST_INTERVAL] or divisors[-1:]
    return min(large, key=lambda number: abs(number - _BEST_INTERVAL))


def with_orientation(data: bytes, orientation: int) -> bytes:
    """A JPEG without metadata with an EXIF orientation put in, so that other programs show it upright.

    Turning the coefficients instead would change pixels by up to 4 of 255: the inverse transform rounds between its
    two passes.
    """
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    after = 2
    if data[2:4] == b"\xff\xe0":  # the JFIF header comes first
        after = 4 + int.from_bytes(data[4:6], "big")
    return data[:after] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[after:]
