"""Which part of an image a sample shows: boxes as pure functions of the image's size and a key.

Boxes are chosen before anything is decoded. All of them are in pixels of the upright source image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...models.bounds import Natural, Positive, Scale, Share, Width, check_ranges
from ..images.geometry import Crop
from ..images.opencv_resize import Axis, Interpolation
from ..keyed_random import Draws

Position = Literal["clamp", "uniform"]


class TooSmallError(ValueError):
    """An image cannot fill the crop without more enlargement than allowed."""


@dataclass(frozen=True)
class CropConfig:
    """Square crops at a random scale and place, resampled once with antialiasing (Lanczos).

    Attributes:
        size: side of the output, in pixels.
        scale: smallest and largest number of source pixels per output pixel, drawn log-uniformly between them after
            both are cut to what the image allows. (1, 1) cuts at native resolution; (.inf, .inf) always takes the
            largest square, the usual "shortest side to size, then crop".
        position: "clamp" draws the center uniformly over the image and moves the box inside, so that pixels at the
            border are seen half as often as others (a quarter of the draws lie flush with each side where the box takes
            more than half of the image); "uniform" draws the corner, which hardly ever shows the border.
        max_upscale: how much smaller images may be enlarged; smaller ones still are refused before training.
        flip: probability of exchanging left and right.
    """

    kind: Literal["patch"] = "patch"
    size: Width = 256
    scale: tuple[Scale, Scale] = (1.0, 1.0)
    position: Position = "clamp"
    max_upscale: Positive = 1.5
    flip: Share = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.max_upscale < 1:
            raise ValueError(f"max_upscale must be at least 1, got {self.max_upscale}")
        low, high = self.scale
        if not 1 / self.max_upscale - 1e-9 <= low <= high:
            raise ValueError(
                f"scale must be (smallest, largest) with smallest at least 1 / max_upscale = {1 / self.max_upscale:g}, "
                f"got {self.scale}"
            )

    @property
    def output(self) -> tuple[int, int]:
        """(height, width) of what is cut, in pixels."""
        return self.size, self.size

    @property
    def smallest_side(self) -> int:
        """The shortest side that an image must have, in pixels."""
        return math.ceil(self.size / self.max_upscale - 1e-9)

    def draw(self, height: int, width: int, key: int) -> Crop:
        """The crop of an image of this size that belongs to a key."""
        draws = Draws(key)
        low, high = self._scales(height, width)
        side = self._side(low * (high / low) ** draws.uniform(), height, width)
        top = _start(draws.uniform(), height, side, self.position)
        left = _start(draws.uniform(), width, side, self.position)
        return Crop(left, top, left + side, top + side, draws.uniform() < self.flip)

    def center(self, height: int, width: int) -> Crop:
        """The middle of an image, at the middle of the scales it allows."""
        side = self._middle_side(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return Crop(left, top, left + side, top + side)

    def grid(self, height: int, width: int) -> list[Crop]:
        """Crops that cover every pixel, row by row; the last of each row and column is flush with the border."""
        side = self._middle_side(height, width)
        return [
            Crop(left, top, left + side, top + side)
            for top in _grid_starts(height, side)
            for left in _grid_starts(width, side)
        ]

    def _scales(self, height: int, width: int) -> tuple[float, float]:
        largest = min(height, width) / self.size
        if min(height, width) < self.smallest_side:
            raise TooSmallError(
                f"an image of {height} x {width} pixels is too small for crops of {self.size} with "
                f"max_upscale = {self.max_upscale:g}: its sides must be at least {self.smallest_side}"
            )
        return min(self.scale[0], largest), min(self.scale[1], largest)

    def _middle_side(self, height: int, width: int) -> int:
        low, high = self._scales(height, width)
        return self._side(math.sqrt(low * high), height, width)

    def _side(self, scale: float, height: int, width: int) -> int:
        return min(max(round(scale * self.size), 1), height, width)


@dataclass(frozen=True)
class TamingCropConfig:
    """The preprocessing of taming-transformers (Esser et al. 2021), for faithful runs.

    The shortest side is brought to ``resize`` without antialiasing, whatever the size, in the arithmetic of OpenCV
    (``images/opencv_resize``), and a square of ``size`` is cut out of that, anywhere or in the middle. Label maps are
    taken at the corners of pixels, as OpenCV does; depth maps are resized bilinearly.

    Attributes:
        size: side of the output, in pixels.
        resize: shortest side before cutting, in pixels; 0 for ``size``.
        random: cut anywhere; False cuts the middle.
        flip: probability of exchanging left and right: 0.5 where their loaders cut ImageNet with depth, or a part of
            ImageNet, at random; 0 in all others.
        interpolation: of images: their loaders of S-FLCKR and ADE20K ask for bicubic, all others for bilinear.
    """

    kind: Literal["taming"] = "taming"
    size: Width = 256
    resize: Natural = 0
    random: bool = True
    flip: Share = 0.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.resize and self.resize < self.size:
            raise ValueError(f"resize must be 0 or at least size = {self.size}, got {self.resize}")

    @property
    def output(self) -> tuple[int, int]:
        """(height, width) of what is cut, in pixels."""
        return self.size, self.size

    @property
    def smallest_side(self) -> int:
        """The shortest side that an image must have, in pixels: any, for all are resized."""
        return 1

    def draw(self, height: int, width: int, key: int) -> Crop:
        """The crop of an image of this size that belongs to a key."""
        draws = Draws(key)
        rows, columns = self._resized(height, width)
        if not self.random:
            return self.center(height, width)._replace(flip=draws.uniform() < self.flip)
        top, left = draws.below(rows - self.size + 1), draws.below(columns - self.size + 1)
        return self._in_source(top, left, height, width)._replace(flip=draws.uniform() < self.flip)

    def center(self, height: int, width: int) -> Crop:
        """The middle of the resized image."""
        rows, columns = self._resized(height, width)
        return self._in_source((rows - self.size) // 2, (columns - self.size) // 2, height, width)

    def grid(self, height: int, width: int) -> list[Crop]:
        """Crops that cover every pixel of the resized image, row by row."""
        rows, columns = self._resized(height, width)
        return [
            self._in_source(top, left, height, width)
            for top in _grid_starts(rows, self.size)
            for left in _grid_starts(columns, self.size)
        ]

    def axes(self, crop: Crop, source: tuple[int, int], shape: tuple[int, int]) -> tuple[Axis, Axis]:
        """The rows and columns that a crop takes of a resized image.

        Args:
            crop: one of this config's, in pixels of the image.
            source: (height, width) of the image.
            shape: (height, width) of what is cut alike: the image, or a map beside it of another size.
        """
        resized = self._resized(*source)
        corner = crop.top * resized[0] / source[0], crop.left * resized[1] / source[1]
        rows, columns = (
            Axis(length, resized_to, round(start), self.size)
            for length, resized_to, start in zip(shape, resized, corner, strict=True)
        )
        return rows, columns

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        scale = (self.resize or self.size) / min(height, width)
        return round(height * scale), round(width * scale)

    def _in_source(self, top: int, left: int, height: int, width: int) -> Crop:
        rows, columns = self._resized(height, width)
        vertical, horizontal = height / rows, width / columns
        return Crop(
            left * horizontal,
            top * vertical,
            (left + self.size) * horizontal,
            (top + self.size) * vertical,
        )


@dataclass(frozen=True)
class CodeCropConfig:
    """Windows of grids of codes, at random places; (0, 0) takes whole grids, which must then be of one size.

    Attributes:
        window: (rows, columns) of codes.
        position: as for images: "clamp" or "uniform".
    """

    kind: Literal["codes"] = "codes"
    window: tuple[Natural, Natural] = (16, 16)
    position: Position = "clamp"

    def __post_init__(self) -> None:
        check_ranges(self)
        if 0 in self.window and self.window != (0, 0):
            raise ValueError(f"window must be (rows, columns), at least 1 each, or (0, 0) for all, got {self.window}")

    @property
    def output(self) -> tuple[int, int]:
        """(rows, columns) of what is cut, in codes."""
        return self.window

    def draw(self, height: int, width: int, key: int) -> Crop:
        """The window of a grid of this size, in codes, that belongs to a key."""
        draws = Draws(key)
        return self._placed(height, width, lambda length, side: _start(draws.uniform(), length, side, self.position))

    def center(self, height: int, width: int) -> Crop:
        """The middle of a grid."""
        return self._placed(height, width, lambda length, side: (length - side) // 2)

    def grid(self, height: int, width: int) -> list[Crop]:
        """Windows that cover every code, row by row."""
        rows, columns = self._window(height, width)
        return [
            Crop(left, top, left + columns, top + rows)
            for top in _grid_starts(height, rows)
            for left in _grid_starts(width, columns)
        ]

    def _placed(self, height: int, width: int, start: Callable[[int, int], int]) -> Crop:
        rows, columns = self._window(height, width)
        top, left = start(height, rows), start(width, columns)
        return Crop(left, top, left + columns, top + rows)

    def _window(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.window if self.window != (0, 0) else (height, width)
        if height < rows or width < columns:
            raise TooSmallError(
                f"a grid of {height} x {width} codes is smaller than the window {self.window}; "
                "make the window smaller, or encode larger images"
            )
        return rows, columns


AnyCropConfig = CropConfig | TamingCropConfig | CodeCropConfig


def crop_box(config: AnyCropConfig | None, height: int, width: int, key: int) -> Crop:
    """The crop of an image (or grid of codes) of this size that belongs to a key; the same on every machine.

    No config is no crop: all of the image.

    Raises:
        TooSmallError: the image cannot fill the crop.
    """
    return config.draw(height, width, key) if config else Crop(0, 0, width, height)


def _start(draw: float, length: int, side: int, position: Position) -> int:
    """Where a box of ``side`` begins on an axis, for a uniform draw from [0, 1)."""
    if position == "uniform":
        return min(int(draw * (length - side + 1)), length - side)
    slack = length - side
    reach = min(side, slack) / 2  # with the whole side / 2, crops nearly as large as the image would all lie flush
    return min(max(round(draw * (slack + 2 * reach) - reach), 0), slack)


def _grid_starts(length: int, side: int) -> list[int]:
    """Where boxes begin that cover an axis with the least overlap, the last flush with its end."""
    return [*range(0, length - side, side), length - side]
