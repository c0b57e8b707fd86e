"""What was drawn on a map comes back as labels, also where a browser smooths the edges of its brush."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from smalti.trainer.editing.strokes import AGAIN, read_strokes

COLORS = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0), (100, 100, 0)], np.uint8)  # the last: half of the two before
SIZE = (60, 80)


def before() -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[30:] = 1
    return labels


def smoothed(shapes: list[tuple[tuple[int, int, int, int], tuple[int, int, int]]], times: int = 4) -> np.ndarray:
    """A layer of discs, each drawn over those before with its edge smoothed as a canvas does it."""
    layer = Image.new("RGBA", SIZE[::-1])
    for box, color in shapes:
        large = Image.new("L", (SIZE[1] * times, SIZE[0] * times))
        ImageDraw.Draw(large).ellipse([side * times for side in box], fill=255)
        disc = Image.new("RGBA", SIZE[::-1], (*color, 0))
        disc.putalpha(large.resize(SIZE[::-1], Image.Resampling.BOX))
        layer = Image.alpha_composite(layer, disc)
    return np.asarray(layer)


def disc(box: tuple[int, int, int, int]) -> np.ndarray:
    return smoothed([(box, (1, 1, 1))])[..., 3]


def test_what_is_opaque_has_the_label_of_its_color_and_the_rest_of_the_map_stays():
    layer = np.zeros((*SIZE, 4), np.uint8)
    layer[10:20, 5:9] = (*COLORS[2], 255)
    layer[40:50, 5:9] = (*COLORS[3], 255)
    expected = before()
    expected[10:20, 5:9], expected[40:50, 5:9] = 2, 3
    strokes = read_strokes([layer], before(), COLORS)
    assert np.array_equal(strokes.labels, expected) and not strokes.again.any()
    assert strokes.labels.dtype == np.uint8


def test_the_edge_between_two_classes_is_one_of_both_and_never_the_third_whose_color_lies_between():
    one, other = (10, 10, 40, 40), (25, 15, 55, 45)
    layer = smoothed([(one, (200, 0, 0)), (other, (0, 200, 0))])
    between = np.abs(layer[..., :3].astype(int) - COLORS[3]).max(-1) < 20
    assert between.any()  # the colors of the edge do look like the third class
    labels = read_strokes([layer], np.zeros(SIZE, np.uint8), COLORS).labels
    assert set(np.unique(labels)) == {0, 1, 2}
    assert (labels[disc(other) == 255] == 2).all()
    assert (labels[(disc(one) == 255) & (disc(other) == 0)] == 1).all()
    assert (labels[(disc(one) == 0) & (disc(other) == 0)] == 0).all()
    assert np.array_equal(labels != 0, layer[..., 3] >= 128)


def test_a_dot_that_is_all_edge_counts_where_it_is_half_opaque():
    layer = np.zeros((*SIZE, 4), np.uint8)
    layer[5, 5], layer[5, 6] = (198, 1, 0, 200), (200, 0, 0, 100)
    layer[50:, 70:] = (*COLORS[2], 255)  # too far away to say what the dot is
    labels = read_strokes([layer], np.zeros(SIZE, np.uint8), COLORS).labels
    assert labels[5, 5] == 1 and labels[5, 6] == 0


def test_white_marks_what_is_made_anew_as_the_class_that_it_is():
    again, class_2 = (10, 20, 30, 50), (20, 20, 40, 50)
    strokes = read_strokes([smoothed([(again, AGAIN), (class_2, (0, 200, 0))])], before(), COLORS)
    assert np.array_equal(strokes.labels == 2, (disc(class_2) >= 128) & ~strokes.again)
    assert (strokes.again[(disc(again) == 255) & (disc(class_2) == 0)]).all()
    assert np.array_equal(strokes.labels[strokes.again], before()[strokes.again])


def test_a_later_layer_lies_above_and_nothing_drawn_is_the_map_as_it_was():
    lower, upper = np.zeros((2, *SIZE, 4), np.uint8)
    lower[:10], upper[5:15] = (*COLORS[2], 255), (*COLORS[3], 255)
    labels = read_strokes([lower, upper], before(), COLORS).labels
    assert (labels[:5] == 2).all() and (labels[5:15] == 3).all()
    assert np.array_equal(read_strokes([], before(), COLORS).labels, before())


def test_labels_beyond_the_palette_stay_what_they_are():
    labels = np.full(SIZE, 40_000, np.uint16)
    layer = np.zeros((*SIZE, 4), np.uint8)
    layer[:10] = (*COLORS[1], 255)
    found = read_strokes([layer], labels, COLORS).labels
    assert (found[:10] == 1).all() and (found[10:] == 40_000).all()


def test_a_canvas_of_another_size_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="10 x 80 pixels and the map 60 x 80; open the photo again"):
        read_strokes([np.zeros((10, 80, 4), np.uint8)], before(), COLORS)
