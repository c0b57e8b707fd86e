"""One sample: its members read, decoded and cut, with its box in the coordinates of the whole image.

Shapes: S the side of a crop in pixels, (h, w) a window of codes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import bounded_json
from ..images.decode import Pixels, decode_image, measure, size_of_numbers
from ..images.geometry import Crop, Measured
from ..images.known_values import Check
from ..images.resize import Box, antialiased, bilinear_points, decoder_shrink, nearest_points, region_of, scaled
from ..shards.errors import SampleError
from ..shards.fields import ARRAY_FIELDS, CODE_FIELDS, EXTENSIONS, IMAGE_FIELDS
from ..shards.index import SampleLocation
from ..shards.reader import ShardSet
from .collate import LoadedSample
from .crops import AnyCropConfig, CodeCropConfig, CropConfig, TamingCropConfig, TooSmallError
from .region_reader import DecodedRegion, open_member, sample_errors

_TRIED = 32  # samples that are looked at before training
_CHANCE = 0.25  # by how much their share of errors may exceed the limit, if they are not all samples
Choose = Callable[[str, int, int], list[Crop]]  # (key, height, width) -> the crops to make of a sample


class SampleReader:
    """Makes the rows of batches out of the samples of one set of shards.

    Args:
        shards: where the samples lie.
        fields: what a row has besides its key, box, source size and flip.
        crop: how its parts are chosen; None takes whole images.
        members: extensions to read fields from where they are not the usual ones.
        checks: of the numbers in fields, beyond which the model has no tables.
    """

    def __init__(
        self,
        shards: ShardSet,
        fields: Sequence[str],
        crop: AnyCropConfig | None,
        members: Mapping[str, str],
        checks: Mapping[str, Check],
    ) -> None:
        self.shards = shards
        self._fields = tuple(fields)
        self._crop = crop
        self._extensions = {
            field: (members[field],) if field in members else EXTENSIONS[field] for field in self._fields
        }
        self._checks = dict(checks)
        self._is_codes = isinstance(crop, CodeCropConfig)
        self._image = EXTENSIONS["image"] if "image" not in members else (members["image"],)

    def check_fields(self) -> None:
        """Looks into the first shard that is not empty for every field.

        Raises:
            ValueError: there is none, or it has a field in none of its samples.
        """
        filled = [pair for pair in zip(self.shards.names, self.shards.indexes(), strict=True) if pair[1].samples]
        if not filled:
            raise ValueError(f"no sample is in {', '.join(self.shards.names)}")
        name, index = filled[0]
        for field, extensions in self._extensions.items():
            if not set(extensions) & set(index.extensions):
                raise ValueError(
                    f"field {field!r} needs members named {' or '.join('.' + e for e in extensions)}, but {name} has "
                    f"only {', '.join('.' + e for e in index.extensions)}; name the right one under members, or pack it"
                )

    def check_sides(self) -> None:
        """Makes sure that no image is too small for the crops; small ones are left out when packing, never here.

        Raises:
            ValueError: some are.
        """
        if self._crop is None or isinstance(self._crop, CodeCropConfig):
            return
        shortest = np.concatenate([np.minimum(index.heights, index.widths) for index in self.shards.indexes()])
        shortest = shortest[shortest > 0]  # samples without an image are sample errors, and counted as such
        small = int((shortest < self._crop.smallest_side).sum())
        if small:
            raise ValueError(
                f"{small} of {len(shortest)} images have a side below {self._crop.smallest_side} pixels (the "
                f"shortest has {shortest.min()}), too small for crops of {self._crop.size}; leave them out with "
                f"pack --minimum-side {self._crop.smallest_side}, or make the crops smaller"
            )

    def check_values(self, limit: float) -> None:
        """Looks at some samples from all over the set, for numbers that the model does not know in many of them.

        Args:
            limit: the share of samples that may be unusable.

        Raises:
            ValueError: there are too many; in training each would be an error of its sample alone.
        """
        counts = self.shards.counts
        ends = np.cumsum(counts)
        spread = np.linspace(0, int(ends[-1]) - 1, _TRIED).astype(int) if self._checks and ends[-1] else ()
        tried = sorted({int(number) for number in spread})
        wrong: list[SampleError] = []
        for number in tried:
            shard = int(np.searchsorted(ends, number, side="right"))
            place = SampleLocation(shard, number - int(ends[shard]) + counts[shard])
            try:
                self.read(place, self._middle)
            except SampleError as error:
                wrong += [error] if error.kind == "out of range" else []
        chance = _CHANCE if len(tried) < ends[-1] else 0.0  # a sample of a set may be worse than the set
        if len(wrong) > (limit + chance) * len(tried):
            raise ValueError(
                f"{len(wrong)} of {len(tried)} samples that were tried hold numbers that the model does not know, the "
                f"first is {wrong[0]}; make the model's table as large as the data need, or leave such samples out"
            )

    def _middle(self, key: str, height: int, width: int) -> list[Crop]:
        return [Crop(0, 0, width, height) if self._crop is None else self._crop.center(height, width)]

    def read(self, place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        """One row for each crop that ``choose`` wants; the members are read and decoded once.

        Raises:
            SampleError: a member is missing, damaged or cannot be decoded.
        """
        return self._code_rows(place, choose) if self._is_codes else self._image_rows(place, choose)

    def _image_rows(self, place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        key = self.shards.key(*place)
        measured = self._measured(place)
        height, width, _ = measured
        crops = self._chosen(place, choose, height, width)
        rows: list[LoadedSample] = [_row(key, crop, (height, width)) for crop in crops]
        for field in self._fields:
            values = self._field(place, field, crops, measured)
            for row, value in zip(rows, values, strict=True):
                row[field] = value
        return rows

    def _field(self, place: SampleLocation, field: str, crops: list[Crop], measured: Measured) -> list[Any]:
        if field == "cls":
            return [self._label(place)] * len(crops)
        if field in ARRAY_FIELDS:
            return [self._array(place, field)] * len(crops)
        extension = self._extension(place, field)
        with sample_errors(self.shards, place, extension):
            opened = open_member(self.shards, place, field, extension, measured)
            factor = _factor(field, opened.shape, measured[:2])
            own = [scaled(crop, factor) for crop in crops]
            regions = [region_of(crop, *opened.shape) for crop in own]
            parts = opened.parts(regions, [self._shrink(crop) for crop in own])
            made = [self._resampled(field, part, crop) for part, crop in zip(parts, own, strict=True)]
            for pixels in made:
                self._check(field, pixels)
            return made

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

    def _check(self, field: str, numbers: Pixels) -> None:
        if field in self._checks:
            self._checks[field](numbers)

    def _shrink(self, crop: Crop) -> int:
        return decoder_shrink(crop.width / self._crop.size) if isinstance(self._crop, CropConfig) else 1

    def _resampled(self, field: str, part: DecodedRegion, crop: Crop) -> Pixels:
        size = (round(crop.height), round(crop.width)) if self._crop is None else self._crop.output
        if field != "image":
            made = nearest_points(part.pixels, part.shows, crop, size)
        elif isinstance(self._crop, TamingCropConfig):
            made = bilinear_points(part.pixels, part.shows, crop, size)
        else:
            made = antialiased(part.pixels, size, _box_inside(part, crop))
        if field == "image":
            made = made.transpose(2, 0, 1)  # together with the flip in one copy: alone, each costs as much as decoding
        return np.ascontiguousarray(made[..., ::-1] if crop.flip else made)

    def _code_rows(self, place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        key = self.shards.key(*place)
        grids = {}
        for field in self._fields:
            if field in CODE_FIELDS and field != "low":
                extension = self._extension(place, field)
                with sample_errors(self.shards, place, extension):
                    grids[field] = _grid(self.shards.read(*place, extension))
                    self._check(field, grids[field])
        shapes = {grid.shape for grid in grids.values()}
        if len(shapes) != 1:
            raise self.shards.sample_error(*place, "undecodable", f"its grids have different shapes: {sorted(shapes)}")
        height, width = shapes.pop()
        crops = self._chosen(place, choose, height, width)
        rows = [self._code_row(place, key, crop, (height, width)) for crop in crops]
        whole: LoadedSample = {field: self._array(place, field) for field in self._fields if field in ARRAY_FIELDS}
        if "cls" in self._fields:
            whole["cls"] = self._label(place)
        for row, crop in zip(rows, crops, strict=True):
            row.update({field: grid[_window(crop)].astype(np.int64) for field, grid in grids.items()} | whole)
        if "low" in self._fields:
            small = self._small(place, (height, width))
            pixels = small.shape[0] // height
            for row, crop in zip(rows, crops, strict=True):
                row["low"] = np.ascontiguousarray(small[_window(crop, pixels)].transpose(2, 0, 1))
        return rows

    def _small(self, place: SampleLocation, grid: tuple[int, int]) -> Pixels:
        """The small image beside a grid of codes: (h * p, w * p, 3) for (h, w) codes."""
        extension = self._extension(place, "low")
        with sample_errors(self.shards, place, extension):
            small = decode_image(self.shards.read(*place, extension))
            pixels = small.shape[0] // grid[0]
            if small.shape[:2] != (grid[0] * pixels, grid[1] * pixels):
                raise ValueError(f"it has {small.shape[:2]} pixels, no whole number to each code of a grid of {grid}")
        return small

    def _array(self, place: SampleLocation, field: str) -> Pixels:
        """Numbers of the whole sample: float32, or int64 where they are whole."""
        extension = self._extension(place, field)
        with sample_errors(self.shards, place, extension):
            array: Pixels = np.load(io.BytesIO(self.shards.read(*place, extension)), allow_pickle=False)
            self._check(field, array)
        return np.asarray(array, np.float32 if array.dtype.kind == "f" else np.int64)

    def _code_row(self, place: SampleLocation, key: str, window: Crop, shape: tuple[int, int]) -> LoadedSample:
        """The box of a window of codes in the pixels of the image that the grid was made from.

        The sample's ``json`` may say which part of the image the grid shows: {"box": [left, top, right, bottom],
        "source_size": [height, width], "flip": bool}; without it, the grid shows all of the image.
        """
        factor = self.shards.provenance.get("factor", 1)
        rows, columns = shape
        whole = Crop(0, 0, columns * factor, rows * factor)
        source = (rows * factor, columns * factor)
        if self.shards.has(*place, "json"):
            with sample_errors(self.shards, place, "json"):
                said = bounded_json.parsed(self.shards.read(*place, "json"))
                left, top, right, bottom = said.get("box", whole[:4])
                whole = Crop(left, top, right, bottom, bool(said.get("flip", False)))
                source = tuple(said.get("source_size", source))
        across, down = whole.width / columns, whole.height / rows
        first, last = (columns - window.right, columns - window.left) if whole.flip else (window.left, window.right)
        box = Crop(
            whole.left + first * across,
            whole.top + window.top * down,
            whole.left + last * across,
            whole.top + window.bottom * down,
            whole.flip,
        )
        return _row(key, box, source)

    def _chosen(self, place: SampleLocation, choose: Choose, height: int, width: int) -> list[Crop]:
        try:
            return choose(self.shards.key(*place), height, width)
        except TooSmallError as error:
            raise self.shards.sample_error(*place, "too small", str(error)) from error

    def _label(self, place: SampleLocation) -> int:
        extension = self._extension(place, "cls")
        with sample_errors(self.shards, place, extension):
            label = int(self.shards.read(*place, extension))
            self._check("cls", np.array(label))
            return label

    def _extension(self, place: SampleLocation, field: str) -> str:
        extensions = self._extensions[field]
        found = next((e for e in extensions if self.shards.has(*place, e)), None)
        if found is None:
            detail = f"{field!r} needs {' or '.join('.' + e for e in extensions)}"
            raise self.shards.sample_error(*place, "missing field", detail)
        return found


def _row(key: str, crop: Crop, source: tuple[int, int]) -> LoadedSample:
    return {
        "key": key,
        "box": np.array(crop[:4], np.float32),
        "source_size": np.array(source, np.float32),
        "flip": np.bool_(crop.flip),
    }


def _window(crop: Crop, scale: int = 1) -> tuple[slice, slice]:
    """Rows and columns of a window in a matrix with ``scale`` x ``scale`` numbers to each code."""
    top, bottom, left, right = (int(side) * scale for side in (crop.top, crop.bottom, crop.left, crop.right))
    return slice(top, bottom), slice(left, right)


def _grid(data: bytes) -> Pixels:
    grid = np.load(io.BytesIO(data), allow_pickle=False)
    if grid.ndim != 2 or grid.dtype.kind not in "ui":
        raise ValueError(f"a grid of codes is a matrix of whole numbers, this one is {grid.dtype} {grid.shape}")
    return np.asarray(grid)


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
