"""A sample of images: its members read, decoded and cut, with its box in the coordinates of the whole image.

S is the side of a crop in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..images.decode import Pixels, measure, size_of_numbers
from ..images.geometry import Crop, Measured, Region
from ..images.known_values import Check
from ..images.opencv_resize import is_better_whole, needed, resized_depth, resized_image, resized_labels
from ..images.resize import Box, antialiased, decoder_shrink, nearest_points, region_of, scaled
from ..shards.fields import ARRAY_FIELDS, EXTENSIONS, IMAGE_FIELDS
from ..shards.index import SampleLocation
from ..shards.reader import ShardSet
from .collate import LoadedSample
from .crops import CropConfig, TamingCropConfig
from .region_reader import DecodedRegion, RegionSource, open_member, sample_errors, stretches_of
from .samples import Choose, S, SampleReader, sample_row


class ImageReader(SampleReader[S]):
    """Cuts images, and the maps and depths beside them. Arguments as of ``SampleReader``; no crop takes them whole."""

    def __init__(
        self,
        shards: S,
        fields: Sequence[str],
        crop: CropConfig | TamingCropConfig | None,
        members: Mapping[str, str],
        checks: Mapping[str, Check],
    ) -> None:
        super().__init__(shards, fields, crop, members, checks)
        self._cut = crop
        self._image = EXTENSIONS["image"] if "image" not in members else (members["image"],)

    def check_sides(self: "ImageReader[ShardSet]") -> None:
        """Makes sure that no image is too small for the crops; small ones are left out when packing, never here.

        Raises:
            ValueError: some are.
        """
        if self._cut is None:
            return
        sides, least = self.shards.least_sides, self._cut.smallest_side
        known = sides > 0  # samples without an image are sample errors, and counted as such
        doubtful = np.flatnonzero(known & (sides < least)).tolist()
        if doubtful:
            small = sum(int((self.shards.index(shard).least_sides < least).sum()) for shard in doubtful)
            raise ValueError(
                f"{small} of {self.shards.samples} images have a side below {least} pixels (the "
                f"shortest has {sides[known].min()}), too small for crops of {self._cut.size}; leave them out with "
                f"pack --minimum-side {self._cut.smallest_side}, or make the crops smaller"
            )

    def read(self, place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        key = self.shards.key(*place)
        measured = self._measured(place)
        height, width, _ = measured
        crops = self._chosen(place, choose, height, width)
        rows: list[LoadedSample] = [sample_row(key, crop, (height, width)) for crop in crops]
        for field in self._fields:
            values = self._field(place, field, crops, measured)
            for row, value in zip(rows, values, strict=True):
                row[field] = value
        return rows

    def _stretches(self: "ImageReader[ShardSet]", place: SampleLocation, choose: Choose) -> list[tuple[int, int]]:
        measured = self.shards.measured(*place)
        crops = self._chosen(place, choose, measured.height, measured.width) if measured.height else []
        ranges: list[tuple[int, int]] = []
        for field in self._fields:
            extension = self._extension(place, field)
            member = self.shards.member(*place, extension)
            if not member.layout or not crops:
                ranges.append((member.offset, member.size))
                continue
            opened = open_member(self.shards, place, field, extension, measured)
            for region in self._regions(opened, field, crops, measured):
                ranges += stretches_of(opened, region, member.offset)
        return ranges

    def _regions(self, opened: RegionSource, field: str, crops: list[Crop], measured: Measured) -> list[Region]:
        """The pixels of a field that crops need."""
        if isinstance(self._cut, TamingCropConfig):
            return [needed(*self._cut.axes(crop, measured[:2], opened.shape)) for crop in crops]
        factor = _factor(field, opened.shape, measured[:2])
        return [region_of(scaled(crop, factor), *opened.shape) for crop in crops]

    def _field(self, place: SampleLocation, field: str, crops: list[Crop], measured: Measured) -> list[Any]:
        if field == "cls":
            return [self._label(place)] * len(crops)
        if field in ARRAY_FIELDS:
            return [self._array(place, field)] * len(crops)
        extension = self._extension(place, field)
        with sample_errors(self.shards, place, extension):
            opened = open_member(self.shards, place, field, extension, measured)
            factor = _factor(field, opened.shape, measured[:2])
            if isinstance(self._cut, TamingCropConfig):
                made = _as_opencv(self._cut, field, opened, crops, measured[:2])
            else:
                own = [scaled(crop, factor) for crop in crops]
                regions = [region_of(crop, *opened.shape) for crop in own]
                parts = opened.parts(regions, [self._shrink(crop) for crop in own])
                made = [self._resampled(field, part, crop) for part, crop in zip(parts, own, strict=True)]
            for pixels in made:
                self._check(field, pixels)
            return [_as_row(field, pixels, crop) for pixels, crop in zip(made, crops, strict=True)]

    def _measured(self, place: SampleLocation) -> Measured:
        """The size of the image: by the index, or by the member that the config names for it.

        Shards of others may have an image under a name of their own, or maps and depths alone.
        """
        known = self.shards.measured(*place)
        usual, image = (
            next((extension for extension in extensions if self.shards.has(*place, extension)), None)
            for extensions in (EXTENSIONS["image"], self._image)
        )
        if known.height and (image == usual or (image is None and "image" not in self._fields)):
            return known
        if image is not None:
            with sample_errors(self.shards, place, image):
                return measure(self.shards.read(*place, image))
        others = [field for field in self._fields if field in IMAGE_FIELDS]
        if "image" in others or not others:
            detail = f"it has no .{' or .'.join(self._image)}, and so no size to cut from"
            raise self.shards.sample_error(*place, "missing field", detail)
        extension = self._extension(place, others[0])
        with sample_errors(self.shards, place, extension):
            return Measured(*size_of_numbers(self.shards.read(*place, extension)))

    def _shrink(self, crop: Crop) -> int:
        return decoder_shrink(crop.width / self._cut.size) if isinstance(self._cut, CropConfig) else 1

    def _resampled(self, field: str, part: DecodedRegion, crop: Crop) -> Pixels:
        size = (round(crop.height), round(crop.width)) if self._cut is None else self._cut.output
        if field != "image":
            return nearest_points(part.pixels, part.shows, crop, size)
        return antialiased(part.pixels, size, _box_inside(part, crop))


def _as_opencv(
    config: TamingCropConfig, field: str, opened: RegionSource, crops: Sequence[Crop], source: tuple[int, int]
) -> list[Pixels]:
    """Crops of one field in the arithmetic of OpenCV."""
    axes = [config.axes(crop, source, opened.shape) for crop in crops]
    regions = [needed(*each) for each in axes]
    if field == "image" and not opened.is_stored_in_parts:
        whole = Region(0, 0, opened.shape[1], opened.shape[0])
        better = [is_better_whole(*each, config.interpolation) for each in axes]
        regions = [whole if wanted else region for region, wanted in zip(regions, better, strict=True)]
    parts = opened.parts(regions, [1] * len(crops))
    made = []
    for part, (rows, columns) in zip(parts, axes, strict=True):
        if field == "image":
            made.append(resized_image(part.pixels, part.shows, rows, columns, config.interpolation))
        elif field == "depth":
            made.append(resized_depth(part.pixels, part.shows, rows, columns))
        else:
            made.append(resized_labels(part.pixels, part.shows, rows, columns))
    return made


def _as_row(field: str, pixels: Pixels, crop: Crop) -> Pixels:
    """Pixels as they stand in a batch: channels first, flipped where the crop is."""
    if field == "image":
        pixels = pixels.transpose(2, 0, 1)  # with the flip in one copy: alone, each costs as much as decoding
    pixels = pixels[..., ::-1] if crop.flip else pixels
    # What views no more than itself is copied when the batch is made; a part of a photo would keep all of it.
    whole = pixels.base if isinstance(pixels.base, np.ndarray) else pixels
    return pixels if whole.nbytes <= 2 * pixels.nbytes else np.ascontiguousarray(pixels)


def _box_inside(part: DecodedRegion, crop: Crop) -> Box | None:
    """The crop in the pixels of a part that a decoder has reduced; None if the part is the crop."""
    if part.shrink == 1:
        return None
    left, top = (crop.left - part.shows.left) / part.shrink, (crop.top - part.shows.top) / part.shrink
    return left, top, left + crop.width / part.shrink, top + crop.height / part.shrink


def _factor(field: str, shape: Sequence[int], source: tuple[int, int]) -> float:
    """How many pixels of a map there are to one of the image, along each side.

    Raises:
        ValueError: the two have different proportions.
    """
    height, width = source
    if abs(shape[0] * width - shape[1] * height) > max(height, width):
        raise ValueError(f"the {field} of {shape[0]} x {shape[1]} does not fit an image of {height} x {width}")
    return shape[0] / height
