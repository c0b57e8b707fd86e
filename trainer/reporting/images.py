"""Images for a page: small enough to lie in it, as data URLs.

Shapes: a strip is a grid image with a row for what was shown and one for what came of it, as tasks write previews.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageChops

from ..images.decode import open_image

MOST_STEPS = 8  # of a run whose previews are shown, evenly, with the last
STRIP_WIDTH = 1024  # pixels of a strip of previews
DIFFERENCE_GAIN = 4  # a difference of 64 gray levels is white
QUALITIES = (90, 80, 65, 50)  # of WebP, tried until an image is small enough
SMALLEST = 64  # pixels of a side, below which no image is shrunk


class Encoded(NamedTuple):
    """An image inside a page."""

    url: str
    size: tuple[int, int]  # width and height of what is embedded
    shrunk: int  # by how much it was made smaller on a side: 1 for not at all


class Preview(NamedTuple):
    """The previews of one step."""

    step: int
    strips: list[tuple[str, Encoded]]  # each with what it shows


def previews(run_dir: Path, row_height: int | None, most_bytes: int) -> list[Preview]:
    """What a run's previews show, at some of its steps.

    Args:
        row_height: pixels of a row where a preview has images above their reconstructions, which are then compared;
            None shows it as it is.
        most_bytes: of all of them together.
    """
    paths = _spread(sorted((run_dir / "images").glob("*-[0-9]*.png")))
    budget = most_bytes // max(1, len(paths))
    found = []
    for path in paths:
        step = int(path.stem.rpartition("-")[2])
        found.append(Preview(step, _strips(open_image(path), row_height, budget)))
    return found


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most ``MOST_STEPS`` of them, evenly, with the last."""
    every = -(-len(paths) // MOST_STEPS)
    return list(reversed(paths[::-1][:: every or 1]))


def _strips(image: Image.Image, row_height: int | None, most_bytes: int) -> list[tuple[str, Encoded]]:
    if row_height is None or image.height != 2 * row_height:
        return [("preview", encoded(_narrowed(image), most_bytes))]
    real = image.crop((0, 0, image.width, row_height))
    rebuilt = image.crop((0, row_height, image.width, 2 * row_height))
    apart = ImageChops.difference(real, rebuilt).point(lambda level: min(255, DIFFERENCE_GAIN * level))
    rows = {"image": real, "reconstruction": rebuilt, f"difference, {DIFFERENCE_GAIN} times": apart}
    return [(name, encoded(_narrowed(row), most_bytes // len(rows))) for name, row in rows.items()]


def _narrowed(image: Image.Image) -> Image.Image:
    if image.width <= STRIP_WIDTH:
        return image
    height = max(1, round(image.height * STRIP_WIDTH / image.width))
    return image.resize((STRIP_WIDTH, height), Image.Resampling.LANCZOS)


def encoded(image: Image.Image, most_bytes: int) -> Encoded:
    """An image as WebP of at most so many bytes: at a lower quality first, then smaller by halves."""
    shrunk = 1
    while True:
        for quality in QUALITIES:
            file = io.BytesIO()
            image.save(file, "WEBP", quality=quality)
            if file.tell() * 4 // 3 <= most_bytes:
                break
        if file.tell() * 4 // 3 <= most_bytes or min(image.size) // 2 < SMALLEST:
            text = base64.b64encode(file.getvalue()).decode("ascii")
            return Encoded(f"data:image/webp;base64,{text}", image.size, shrunk)
        image = image.reduce(2)
        shrunk *= 2
