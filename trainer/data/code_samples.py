"""A sample of codes: its grids read and cut, with its box in the pixels of the image that they were made from.

(h, w) is a window of codes.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .. import bounded_json
from ..images.decode import Pixels, decode_image
from ..images.geometry import Crop
from ..images.known_values import OutOfRangeError
from ..shards.fields import ARRAY_FIELDS, CODE_FIELDS
from ..shards.index import SampleLocation
from ..shards.packed.layout import PLACE
from ..shards.reader import ShardSet
from .collate import Batch, LoadedSample
from .crops import TooSmallError
from .region_reader import sample_errors
from .samples import Choose, ChooseAt, SampleReader, sample_row


class CodeReader(SampleReader[ShardSet]):
    """Cuts windows out of grids of codes, and out of what lies beside them."""

    def read(self, place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        key = self.shards.key(*place)
        grids = {}
        for field in self._fields:
            if field in CODE_FIELDS and field != "low":
                extension = self._extension(place, field)
                with sample_errors(self.shards, place, extension):
                    grids[field] = self._grid(place, extension)
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

    def _grid(self, place: SampleLocation, extension: str) -> Pixels:
        name = extension.removesuffix(".npy")
        rows = self.shards.read_rows([place], [name])
        return checked_grid(rows[name][0]) if rows else decode_grid(self.shards.read(*place, extension))

    def _small(self, place: SampleLocation, grid: tuple[int, int]) -> Pixels:
        """The small image beside a grid of codes: (h * p, w * p, 3) for (h, w) codes."""
        extension = self._extension(place, "low")
        with sample_errors(self.shards, place, extension):
            small = decode_image(self.shards.read(*place, extension))
            pixels = small.shape[0] // grid[0]
            if small.shape[:2] != (grid[0] * pixels, grid[1] * pixels):
                raise ValueError(f"it has {small.shape[:2]} pixels, no whole number to each code of a grid of {grid}")
        return small

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
        return sample_row(key, box, source)

    def read_batch(self, places: Sequence[SampleLocation], choose: ChooseAt) -> Batch | None:
        """A batch of one window of each sample, out of packed shards: equal to what ``read`` and ``collate`` make.

        A few calls for each sample, and the rest for all of them at once.

        Args:
            places: of the samples, m.
            choose: the window of the sample of this number, of this key and size.

        Returns:
            None where a sample is not packed, has another shape than the rest, or cannot be used.

        Raises:
            SampleError: a sample cannot be used; reading it alone tells which.
        """
        names = {field: self._column(field) for field in self._fields}
        if "" in names.values():
            return None
        rows = self.shards.read_rows(places, [*names.values(), *PLACE])
        if not rows.keys() >= set(names.values()):
            return None
        arrays = {field: rows[name] for field, name in names.items()}
        try:
            return self._cut_batch(places, arrays, rows, choose)
        except (OutOfRangeError, TooSmallError):
            return None

    def _column(self, field: str) -> str:
        """The column of a packed shard that holds a field; none where only a file can."""
        extension = self._extensions[field][0]
        name = extension.removesuffix(".npy")
        return name if name == "cls" or name != extension else ""

    def _cut_batch(
        self,
        places: Sequence[SampleLocation],
        arrays: Mapping[str, Pixels],
        rows: Mapping[str, Pixels],
        choose: ChooseAt,
    ) -> Batch | None:
        """The windows of stacked grids, and what belongs to them."""
        grids = [field for field in arrays if field in CODE_FIELDS]
        shapes = {arrays[field].shape[1:] for field in grids}
        if (
            len(shapes) != 1
            or len(shape := shapes.pop()) != 2
            or any(arrays[field].dtype.kind == "f" for field in grids)
        ):
            return None
        keys = [self.shards.key(*place) for place in places]
        windows = [Crop(0, 0, shape[1], shape[0])]
        if self._crop is not None and self._crop.output not in ((0, 0), shape):
            windows = [choose(number, key, *shape) for number, key in enumerate(keys)]
        batch = self._placed(rows, len(keys), windows, shape)
        batch["key"] = keys
        for field, array in arrays.items():
            self._check(field, array)
            if field in CODE_FIELDS and len(windows) > 1:
                array = np.stack([grid[_window(window)] for grid, window in zip(array, windows, strict=True)])
            elif field in CODE_FIELDS:
                lines, columns = _window(windows[0])
                array = array[:, lines, columns]
            kind = np.float32 if array.dtype.kind == "f" else np.int64
            batch[field] = torch.from_numpy(array.astype(kind))
        return batch

    def _placed(self, said: Mapping[str, Pixels], count: int, windows: Sequence[Crop], shape: tuple[int, int]) -> Batch:
        """The boxes of windows in the pixels of the images that their grids were made from, as ``_code_row``."""
        rows, columns = shape
        factor = self.shards.provenance.get("factor", 1)
        whole = np.array([[0, 0, columns * factor, rows * factor]] * count, np.float64)
        source, flip = whole[:, [3, 2]], np.zeros(count, bool)
        if said.keys() >= set(PLACE):
            whole, source, flip = (said[name] for name in PLACE)
        left, top, right, bottom = whole.astype(np.float64).T
        begin, upper, end, lower = np.array([window[:4] for window in windows], np.float64).T
        across, down = (right - left) / columns, (bottom - top) / rows
        first, last = np.where(flip, columns - end, begin), np.where(flip, columns - begin, end)
        box = np.stack([left + first * across, top + upper * down, left + last * across, top + lower * down], 1)
        return {
            "box": torch.from_numpy(box.astype(np.float32)),
            "source_size": torch.from_numpy(source.astype(np.float32)),
            "flip": torch.from_numpy(flip),
        }


def _window(crop: Crop, scale: int = 1) -> tuple[slice, slice]:
    """Rows and columns of a window in a matrix with ``scale`` x ``scale`` numbers to each code."""
    top, bottom, left, right = (int(side) * scale for side in (crop.top, crop.bottom, crop.left, crop.right))
    return slice(top, bottom), slice(left, right)


def decode_grid(data: bytes) -> Pixels:
    """(h, w) codes of a ``.npy`` file.

    Raises:
        ValueError: it is no matrix of whole numbers.
    """
    return checked_grid(np.load(io.BytesIO(data), allow_pickle=False))


def checked_grid(grid: Pixels) -> Pixels:
    """A matrix of codes, if it is one.

    Raises:
        ValueError: it is no matrix of whole numbers.
    """
    if grid.ndim != 2 or grid.dtype.kind not in "ui":
        raise ValueError(f"a grid of codes is a matrix of whole numbers, this one is {grid.dtype} {grid.shape}")
    return np.asarray(grid)
