"""A plan is played with lists: every cell is drawn from exactly the codes of its window that come before it."""

import itertools

import numpy as np
import pytest

from smalti.models.priors.decoders.window_plan import Planner, WindowGeometry
from smalti.models.priors.decoding import Schedule, strided_start
from smalti.models.sampling.wavefront import serial, wavefront

WINDOW = (3, 4)


def before(cell: tuple[int, int], geometry: WindowGeometry) -> list[int]:
    """The raster numbers of the codes of a cell's window before it, in raster order."""
    top, left = geometry.tops[cell[0]], geometry.lefts[cell[1]]
    window = itertools.product(range(top, top + WINDOW[0]), range(left, left + WINDOW[1]))
    return [row * geometry.size[1] + column for row, column in window if (row, column) < cell]


@pytest.mark.parametrize("trial", range(20))
def test_every_cell_is_drawn_after_its_lanes_have_read_what_comes_before_it(trial: int):
    draws = np.random.default_rng(trial)
    size, stride = (int(draws.integers(3, 8)), int(draws.integers(4, 13))), int(draws.integers(1, 4))
    tops = [strided_start(row, size[0], WINDOW[0], 1) for row in range(size[0])]
    lefts = [strided_start(column, size[1], WINDOW[1], stride) for column in range(size[1])]
    rows_at_once = -(-size[1] // WINDOW[1])
    geometry = WindowGeometry(size, WINDOW, tops, lefts, range(WINDOW[0] * WINDOW[1]), rows_at_once)
    known = draws.random(size) < draws.choice([0.0, 0.3])
    reach = np.array([left + WINDOW[1] - 1 for left in lefts])
    cells = list(itertools.product(*map(range, size)))
    steps = wavefront(known, rows_at_once, reach) if trial % 2 else serial(cells, known)
    passed = np.zeros(size, dtype=bool)
    for step in steps[: len(steps) * (trial % 3) // 3]:
        passed[tuple(step.T)] = True

    plan = Planner(geometry).plan(Schedule(steps, passed, ~known[None]))
    lanes: dict[int, list[int]] = {}
    predicting: set[int] = set()  # slots whose lanes say what comes next; reading on writes to those of all lanes
    drawn = []
    for action in range(plan.pauses[-1][0] if plan.pauses else 0):
        for _, slot, top, left, held in plan.begun[plan.begun[:, 0] == action].tolist():
            lanes[slot] = [(top + at // WINDOW[1]) * size[1] + left + at % WINDOW[1] for at in range(held)]
            predicting.add(slot)
        reads = plan.read[plan.read[:, 0] == action].tolist()
        predicting = {slot for _, slot, _ in reads} if reads else predicting
        for _, slot, place in reads:
            lanes[slot].append(place)
        for _, slot, place in plan.drawn[plan.drawn[:, 0] == action].tolist():
            assert slot in predicting and lanes[slot] == before(divmod(place, size[1]), geometry)
            drawn.append(place)
    assert sorted(drawn) == np.flatnonzero(~known & ~passed).tolist()
    assert [complete for _, complete in plan.pauses][-1:] == [len(steps)][: len(steps)]
