"""Members of a sample as images of which any region can be had, at the least cost that their storage allows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from ..files import ChecksumError
from ..images import geometry, seekable_jpeg, tiled_tiff
from ..images.decode import (
    Pixels,
    decode_depth,
    decode_map,
    decode_stored,
    oriented,
    scaled_depth,
    stored_region,
    upright_region,
)
from ..images.geometry import Measured, Region
from ..images.known_values import OutOfRangeError
from ..shards.access.samples import Samples
from ..shards.errors import Kind, SampleError
from ..shards.index import SampleLocation


class DecodedRegion(NamedTuple):
    """Pixels of a part of an image."""

    pixels: Pixels
    shows: Region  # the source pixels that they stand for; may reach over the border by less than ``shrink``
    shrink: int = 1  # source pixels to one of these, along each side


class RegionSource(Protocol):
    """An image, map or depth of which parts can be had.

    Attributes:
        is_stored_in_parts: whether a part costs less than all of it.
    """

    is_stored_in_parts: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in its own pixels, upright."""
        ...

    def parts(self, regions: Sequence[Region], shrinks: Sequence[int]) -> list[DecodedRegion]:
        """Parts that hold the regions, each reduced by the decoder as far as allowed (1, 2, 4, 8) if it can."""
        ...


class _Whole:
    """Decoded at once."""

    is_stored_in_parts = False

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self.shape = (pixels.shape[0], pixels.shape[1])

    def parts(self, regions: Sequence[Region], shrinks: Sequence[int]) -> list[DecodedRegion]:
        return [DecodedRegion(_cut(self._pixels, region), region) for region in regions]


class _Image:
    """An image of any kind: decoded once, and a baseline JPEG only down to the last row that is needed."""

    is_stored_in_parts = False

    def __init__(self, data: bytes, measured: Measured) -> None:
        self._data = data
        self._orientation = measured.orientation
        self.shape = (measured.height, measured.width)

    def parts(self, regions: Sequence[Region], shrinks: Sequence[int]) -> list[DecodedRegion]:
        if not self._data.startswith(seekable_jpeg.BEGIN):
            shrinks = [1] * len(regions)
        stored = [stored_region(region, *self.shape, self._orientation) for region in regions]
        lowest = max(region.bottom for region in stored)
        # Each crop gets its own reduction, not one for all: it must not depend on which others are asked for with it.
        decoded = {shrink: self._decoded(lowest, shrink) for shrink in set(shrinks)}
        origin = Region(0, 0, 0, 0)
        return [
            _part(decoded[shrink], origin, region, shrink, self.shape, self._orientation)
            for region, shrink in zip(stored, shrinks, strict=True)
        ]

    def _decoded(self, rows: int, shrink: int) -> Pixels:
        """The image as it is stored, at least its first rows."""
        upper_part = seekable_jpeg.shortened(self._data, rows)
        if upper_part is not None:
            return decode_stored(upper_part, strict=False, shrink=shrink)
        pixels = decode_stored(self._data, shrink=shrink)
        self._check(oriented(pixels, self._orientation), shrink)
        return pixels

    def _check(self, pixels: Pixels, shrink: int) -> None:
        expected = tuple(-(-length // shrink) for length in self.shape)
        if pixels.shape[:2] != expected:
            raise ValueError(f"the image has {pixels.shape[:2]} pixels, by the index it should have {expected}")


class _SeekableJpeg:
    """Reads and decodes only the segments that a region touches."""

    is_stored_in_parts = True

    def __init__(self, layout: seekable_jpeg.JpegLayout, read_many: geometry.ReadMany, measured: Measured) -> None:
        self._layout = layout
        self._read_many = read_many
        self._orientation = measured.orientation
        self.shape = (measured.height, measured.width)

    def parts(self, regions: Sequence[Region], shrinks: Sequence[int]) -> list[DecodedRegion]:
        return [self._one(region, shrink) for region, shrink in zip(regions, shrinks, strict=True)]

    def reading_by(self, read_many: geometry.ReadMany) -> "_SeekableJpeg":
        """The same image, read by another function."""
        return _SeekableJpeg(self._layout, read_many, Measured(*self.shape, self._orientation))

    def _one(self, region: Region, shrink: int) -> DecodedRegion:
        stored = stored_region(region, *self.shape, self._orientation)
        spliced = seekable_jpeg.splice(self._layout, self._read_many, stored)
        pixels = decode_stored(spliced.data, shrink=shrink)
        return _part(pixels, spliced.shows, stored, shrink, self.shape, self._orientation)


class _Tiled:
    """Reads and unpacks only the tiles that a region touches."""

    is_stored_in_parts = True

    def __init__(self, layout: tiled_tiff.TileLayout, read_many: geometry.ReadMany, is_depth: bool) -> None:
        self._layout = layout
        self._read_many = read_many
        self._is_depth = is_depth
        self.shape = (layout.height, layout.width)

    def parts(self, regions: Sequence[Region], shrinks: Sequence[int]) -> list[DecodedRegion]:
        return [DecodedRegion(self._one(region), region) for region in regions]

    def reading_by(self, read_many: geometry.ReadMany) -> "_Tiled":
        """The same numbers, read by another function."""
        return _Tiled(self._layout, read_many, self._is_depth)

    def _one(self, region: Region) -> Pixels:
        numbers = tiled_tiff.cut(self._layout, self._read_many, region)
        return scaled_depth(numbers) if self._is_depth else numbers


def open_member(shards: Samples, place: SampleLocation, field: str, extension: str, measured: Measured) -> RegionSource:
    """An image, map or depth of a sample.

    Args:
        measured: the image's size and orientation.

    Raises:
        SampleError: it is not there or cannot be reached.
        Exception: whatever decoders say of damaged bytes; ``sample_errors`` makes a SampleError of it.
    """
    member = shards.member(*place, extension)
    if member.layout:

        def read_many(ranges: list[tuple[int, int]]) -> list[bytes]:
            return shards.read_ranges(*place, [(member.offset + offset, size) for offset, size in ranges])

        if field == "image":
            return _SeekableJpeg(seekable_jpeg.JpegLayout.from_bytes(member.layout), read_many, measured)
        return _Tiled(tiled_tiff.TileLayout.from_bytes(member.layout), read_many, field == "depth")
    data = shards.read(*place, extension)
    if field == "image":
        return _Image(data, measured)
    return _Whole((decode_depth if field == "depth" else decode_map)(data))


def stretches_of(source: RegionSource, region: Region, begin: int) -> list[tuple[int, int]]:
    """(offset, size) in the tar of what a source in parts will read for a region.

    Args:
        begin: where the member lies in the tar.
    """
    asked: list[tuple[int, int]] = []

    def note(ranges: list[tuple[int, int]]) -> list[bytes]:
        asked.extend((begin + offset, size) for offset, size in ranges)
        raise _PlannedError

    if isinstance(source, _SeekableJpeg | _Tiled):
        with suppress(_PlannedError):
            source.reading_by(note).parts([region], [1])
    return asked


class _PlannedError(Exception):
    """Ends a reading of which only the plan is wanted."""


def _cut(pixels: Pixels, region: Region) -> Pixels:
    return pixels[region.top : region.bottom, region.left : region.right]


def _part(
    pixels: Pixels, origin: Region, stored: Region, shrink: int, shape: tuple[int, int], orientation: int
) -> DecodedRegion:
    """The smallest part of decoded pixels that holds a region, turned upright.

    Args:
        pixels: as stored, reduced ``shrink`` times.
        origin: where they begin in the stored image, at a multiple of ``shrink``.
        stored: the region, in the stored image.
        shrink: source pixels to one of these.
        shape: (height, width) of the upright image.
        orientation: EXIF.
    """
    left, top = stored.left // shrink, stored.top // shrink
    right, bottom = -(-stored.right // shrink), -(-stored.bottom // shrink)
    first_column, first_row = origin.left // shrink, origin.top // shrink
    part = pixels[top - first_row : bottom - first_row, left - first_column : right - first_column]
    shows = Region(left * shrink, top * shrink, right * shrink, bottom * shrink)
    return DecodedRegion(oriented(part, orientation), upright_region(shows, *shape, orientation), shrink)


@contextmanager
def sample_errors(shards: Samples, location: SampleLocation, extension: str) -> Iterator[None]:
    """Turns whatever a decoder says about damaged bytes, or a check of their numbers, into a SampleError."""
    try:
        yield
    except SampleError:
        raise
    except OutOfRangeError as error:
        raise shards.sample_error(*location, "out of range", f".{extension}: {error}") from error
    except Exception as error:
        kind: Kind = "damaged member" if isinstance(error, ChecksumError) else "undecodable"
        raise shards.sample_error(*location, kind, f".{extension}: {type(error).__name__}: {error}") from error
