"""Orders are permutations that can be checked by eye."""

import numpy as np
import pytest
import torch

from smalti.models.priors.orders import AnnealingConfig, OrderConfig

KINDS = ["raster", "spiral_in", "spiral_out", "z_curve", "subsample", "alternate", "random"]
KINDS += ["taming_spiral_in", "taming_spiral_out", "taming_random"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [(1, 1), (1, 7), (5, 1), (4, 4), (3, 5), (16, 16)])
def test_every_order_visits_every_cell_once(kind, window):
    cells = OrderConfig(kind).build(window)
    assert sorted(cells.tolist()) == list(range(window[0] * window[1]))


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("raster", [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ("alternate", [[0, 1, 2], [5, 4, 3], [6, 7, 8]]),
        ("spiral_in", [[0, 1, 2], [7, 8, 3], [6, 5, 4]]),
        ("spiral_out", [[8, 7, 6], [1, 0, 5], [2, 3, 4]]),
        ("taming_spiral_in", [[4, 3, 2], [5, 8, 1], [6, 7, 0]]),
    ],
)
def test_small_orders_are_as_drawn(kind, steps):
    cells = OrderConfig(kind).build((3, 3))
    drawn = torch.empty(9, dtype=torch.int64)
    drawn[cells] = torch.arange(9)
    assert drawn.view(3, 3).tolist() == steps


def test_the_z_curve_finishes_each_quarter_before_the_next():
    cells = OrderConfig("z_curve").build((4, 4)).tolist()
    assert cells == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_subsampling_visits_even_rows_and_columns_first():
    cells = OrderConfig("subsample").build((4, 4)).tolist()
    assert cells[:4] == [0, 2, 8, 10]  # and among them those at multiples of 4 first
    assert sorted(cells[4:8]) == [1, 3, 9, 11] and sorted(cells[8:12]) == [4, 6, 12, 14]


def test_a_random_order_belongs_to_its_seed():
    orders = [OrderConfig("random", seed).build((4, 4)).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def walked(side: int) -> list[int]:
    """The published spiral: from beside the middle in legs of 1, 1, 2, 2, 3, 3, ... cells up, right, down and left."""
    row, column = side // 2, side // 2 - 1
    cells, turns = [row * side + column], 0
    while len(cells) < side * side:
        up, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[turns % 4]
        for _ in range(turns // 2 + 1):
            row, column = row + up, column + right
            cells.append(row * side + column)
        turns += 1
    return cells[: side * side]


@pytest.mark.parametrize("side", [2, 4, 16])
def test_published_spirals_have_the_published_hand(side):
    assert OrderConfig("taming_spiral_out").build((side, side)).tolist() == walked(side)
    assert OrderConfig("taming_spiral_in").build((side, side)).tolist() == walked(side)[::-1]


def test_the_published_random_order_is_numpys():
    cells = OrderConfig("taming_random").build((16, 16)).tolist()
    assert cells == np.random.RandomState(1).permutation(256).tolist()
    assert cells[:8] == [183, 34, 185, 233, 216, 181, 160, 27]
    assert OrderConfig("taming_random", seed=2).build((16, 16)).tolist() != cells


def test_an_order_can_be_a_list_of_cells():
    cells = (3, 1, 0, 2, 5, 4)
    assert OrderConfig("list", cells=cells).build((2, 3)).tolist() == list(cells)
    with pytest.raises(ValueError, match="must name all 4 cells of the window, got 6"):
        OrderConfig("list", cells=cells).build((2, 2))
    with pytest.raises(ValueError, match="name each of 0 to 2 once"):
        OrderConfig("list", cells=(0, 1, 1))
    with pytest.raises(ValueError, match="cells lists all cells for the kind list"):
        OrderConfig("list")
    with pytest.raises(ValueError, match="here raster"):
        OrderConfig(cells=cells)


def test_annealing_falls_from_one_to_zero():
    annealing = AnnealingConfig(0.5, 0.75)
    assert [annealing.chance(share) for share in (0.0, 0.5, 0.625, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert AnnealingConfig(0.5, 0.5).chance(0.5) == 0.0


def test_annealing_refuses_an_end_before_its_start():
    with pytest.raises(ValueError, match=r"start 0\.8 and end 0\.2"):
        AnnealingConfig(0.8, 0.2)
