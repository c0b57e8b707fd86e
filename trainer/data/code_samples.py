"""A sample of codes: its grids read and cut, with its box in the pixels of the image that they were made from.

(h, w) is a window of codes.
"""

import io

import numpy as np

from .. import bounded_json
from ..images.decode import Pixels, decode_image
from ..images.geometry import Crop
from ..shards.fields import ARRAY_FIELDS, CODE_FIELDS
from ..shards.index import SampleLocation
from .collate import LoadedSample
from .region_reader import sample_errors
from .samples import Choose, SampleReader, sample_row


class CodeReader(SampleReader):
    """Cuts windows out of grids of codes, and out of what lies beside them."""

    def read(self, place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        key = self.shards.key(*place)
        grids = {}
        for field in self._fields:
            if field in CODE_FIELDS and field != "low":
                extension = self._extension(place, field)
                with sample_errors(self.shards, place, extension):
                    grids[field] = decode_grid(self.shards.read(*place, extension))
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


def _window(crop: Crop, scale: int = 1) -> tuple[slice, slice]:
    """Rows and columns of a window in a matrix with ``scale`` x ``scale`` numbers to each code."""
    top, bottom, left, right = (int(side) * scale for side in (crop.top, crop.bottom, crop.left, crop.right))
    return slice(top, bottom), slice(left, right)


def decode_grid(data: bytes) -> Pixels:
    """(h, w) codes of a ``.npy`` file.

    Raises:
        ValueError: it is no matrix of whole numbers.
    """
    grid = np.load(io.BytesIO(data), allow_pickle=False)
    if grid.ndim != 2 or grid.dtype.kind not in "ui":
        raise ValueError(f"a grid of codes is a matrix of whole numbers, this one is {grid.dtype} {grid.shape}")
    return np.asarray(grid)
