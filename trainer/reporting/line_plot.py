"""Lines as a PNG that a Markdown page can show, drawn by Pillow: panels side by side, each with its axes and legend."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .colors import COLORS

WIDTH, HEIGHT = 460, 320  # pixels of a panel
COLUMNS = 2  # panels side by side
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 30, 44  # around its axes
TICKS = 5
LETTERS = 12

Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    across: str  # what the axes measure
    up: str
    lines: Mapping[str, Points]  # by their names


def png(panels: Sequence[Panel]) -> bytes:
    """The file of some panels, two in a row.

    Raises:
        ValueError: a panel has no point whose numbers are finite.
    """
    columns = min(len(panels), COLUMNS)
    image = Image.new("RGB", (WIDTH * columns, HEIGHT * -(-len(panels) // columns)), "white")
    for number, panel in enumerate(panels):
        drawn = Image.new("RGB", (WIDTH, HEIGHT), "white")
        _draw(ImageDraw.Draw(drawn), panel)
        image.paste(drawn, (WIDTH * (number % columns), HEIGHT * (number // columns)))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, about five of them."""
    step = 10 ** math.floor(math.log10((high - low) / TICKS)) if high > low else 1.0
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= TICKS)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [number * step for number in range(first, last + 1)]


def _draw(draw: ImageDraw.ImageDraw, panel: Panel) -> None:
    lines = {
        name: [point for point in points if all(map(math.isfinite, point))] for name, points in panel.lines.items()
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError(f"the plot {panel.title!r} has no point to draw")
    across, up = (ticks(min(values), max(values)) for values in zip(*points, strict=True))
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = left + (point[0] - across[0]) / (across[-1] - across[0]) * (right - left)
        return x, bottom - (point[1] - up[0]) / (up[-1] - up[0]) * (bottom - top)

    font = ImageFont.load_default(LETTERS)
    for tick in across:
        x, _ = place((tick, up[0]))
        draw.line((x, top, x, bottom), fill="#e0e0e0")
        draw.text((x, bottom + 4), f"{tick:g}", fill="black", font=font, anchor="ma")
    for tick in up:
        _, y = place((across[0], tick))
        draw.line((left, y, right, y), fill="#e0e0e0")
        draw.text((left - 6, y), f"{tick:g}", fill="black", font=font, anchor="rm")
    draw.rectangle((left, top, right, bottom), outline="#808080")
    draw.text(((left + right) / 2, 8), panel.title, fill="black", font=font, anchor="ma")
    draw.text(((left + right) / 2, HEIGHT - 20), panel.across, fill="black", font=font, anchor="ma")
    draw.text((4, 8), panel.up, fill="black", font=font)
    for number, (name, line) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        if len(line) > 1:
            draw.line([place(point) for point in line], fill=color, width=2)
        for x, y in map(place, line):
            draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=color)
        row = top + 6 + number * (LETTERS + 4)
        draw.text((right - 8, row), name, fill=color, font=font, anchor="ra")
