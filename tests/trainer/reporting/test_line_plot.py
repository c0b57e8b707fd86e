"""Lines as a PNG: axes with round numbers, a point where its numbers say."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from smalti.trainer.reporting.line_plot import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Panel, png, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.13, 0.58, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (7, 7, [7, 8]),
        (-3, 40, [-10, 0, 10, 20, 30, 40]),
    ],
)  # fmt: skip
def test_ticks_are_round_and_hold_all_values(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_points_lie_where_their_numbers_say_and_panels_side_by_side():
    lines = {"one": [(0.0, 0.0), (10.0, 10.0)], "other": [(5.0, 2.0), (float("nan"), 1.0)]}
    image = Image.open(io.BytesIO(png([Panel("left", "x", "y", lines), Panel("right", "x", "y", lines)])))
    assert image.size == (2 * WIDTH, HEIGHT)
    pixels = np.asarray(image.convert("RGB"))

    def at(panel, x, y):
        column = panel * WIDTH + LEFT + x / 10 * (WIDTH - LEFT - RIGHT)
        return tuple(pixels[round(HEIGHT - BOTTOM - y / 10 * (HEIGHT - TOP - BOTTOM)), round(column)])

    for panel in (0, 1):
        assert at(panel, 5, 5) == ImageColor.getrgb(COLORS[0])  # on the line between its two points
        assert at(panel, 5, 2) == ImageColor.getrgb(COLORS[1])
        assert at(panel, 2, 8) == (255, 255, 255) or at(panel, 2, 8) == ImageColor.getrgb("#e0e0e0")


def test_a_plot_without_points_is_refused():
    with pytest.raises(ValueError, match=r"the plot 'empty' has no point"):
        png([Panel("empty", "x", "y", {"one": []})])
