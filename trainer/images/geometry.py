"""Sizes, regions and crops of images, in whole pixels."""

from collections.abc import Callable
from typing import NamedTuple


class Crop(NamedTuple):
    """A part of an image. Whole pixels, but for the faithful preprocessing, which cuts after resizing."""

    left: float
    top: float
    right: float
    bottom: float
    flip: bool = False  # left and right are exchanged after cutting

    @property
    def width(self) -> float:
        """In source pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In source pixels."""
        return self.bottom - self.top


class Measured(NamedTuple):
    """The size of an image as it is to be seen, after its EXIF orientation is applied."""

    height: int
    width: int
    orientation: int = 1  # what is still to be applied when decoding: the EXIF number, 1 for nothing


ReadMany = Callable[[list[tuple[int, int]]], list[bytes]]  # [(offset, size), ...] inside the file -> their bytes


class Region(NamedTuple):
    """Whole source pixels [left, right) x [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top
