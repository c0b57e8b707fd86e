"""Small arrays that describe a run at its evaluations, such as how often codes are used.

RUN/arrays.jsonl    {"step": 500, "name": "nll_by_position", "shape": [16, 16], "values": [5.1, ...]}
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributed import ranks
from . import json_lines

FILE = "arrays.jsonl"
CODE_USE = "code_use"  # a histogram: of ``RollingUse.histogram``
NLL_BY_POSITION = "nll_by_position"  # (h, w) nats a code, by where in the window it lies
MOST_SIDE = 32  # cells of a side of a grid; larger ones are averaged
MOST_VALUES = MOST_SIDE * MOST_SIDE


class StepArray(NamedTuple):
    """One array of one evaluation; what is not known is NaN."""

    step: int
    name: str
    shape: tuple[int, ...]
    values: list[float]  # in row-major order


def lines(step: int, arrays: Mapping[str, Tensor]) -> str:
    """The arrays as lines of the file, with four digits of each number."""
    return "".join(
        json.dumps({"step": step, "name": name, "shape": list(array.shape), "values": _rounded(array)}) + "\n"
        for name, array in arrays.items()
    )


def _rounded(array: Tensor) -> list[float | None]:
    numbers = array.flatten().tolist()
    return [float(f"{number:.4g}") if math.isfinite(number) else None for number in numbers]


def read(run: Path) -> list[StepArray]:
    """What a run's file holds, oldest first; a line that is not as it was written is left out."""
    path = run / FILE
    found = []
    for said in json_lines.read(path) if path.is_file() else ():
        name, shape, values = said.get("name"), said.get("shape"), said.get("values")
        if not (isinstance(name, str) and isinstance(shape, list) and isinstance(values, list)):
            continue
        whole = all(type(side) is int and 0 < side <= MOST_VALUES for side in shape) and len(values) <= MOST_VALUES
        if whole and math.prod(shape) == len(values) and all(_is_number(value) for value in values):
            numbers = [math.nan if value is None else float(value) for value in values]
            found.append(StepArray(said["step"], name, tuple(shape), numbers))
    return found


def _is_number(value: object) -> bool:
    return value is None or type(value) is float or (type(value) is int and abs(value) < 1 << 53)


def gray_levels(grid: Tensor, cell: int = 8) -> Tensor:
    """A (h, w) grid as an image uint8 (cell * h, cell * w): its smallest value black, its largest white, NaN black."""
    known = grid[grid.isfinite()]
    low, high = (known.min(), known.max()) if known.numel() else (grid.new_zeros(()), grid.new_ones(()))
    levels = ((grid - low) / (high - low).clamp(min=1e-12) * 255).nan_to_num(0, 0, 0).byte()
    return levels.repeat_interleave(cell, 0).repeat_interleave(cell, 1)


class GridMeans:
    """The mean of a figure at every place of a grid, over batches and ranks."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # (2, h, w) float64: sums, and how many they are of

    def add(self, values: Tensor, counted: Tensor | None = None) -> None:
        """Take in (B, h, w) values; B may be 0. Every rank must do so at least once.

        Args:
            counted: (B, h, w) bool, those that count; None: all.
        """
        if counted is None:
            counted = torch.ones_like(values, dtype=torch.bool)
        pair = torch.stack([values.masked_fill(~counted, 0).double().sum(0), counted.double().sum(0)])
        self._sums = pair if self._sums is None else self._sums + pair

    def means(self) -> Tensor:
        """(h, w) float64, at most ``MOST_SIDE`` cells a side; NaN where nothing counted. Every rank must call this."""
        if self._sums is None:
            raise ValueError("no batch was added")
        total = ranks.all_reduce_sum_(self._sums)
        size = (min(total.shape[1], MOST_SIDE), min(total.shape[2], MOST_SIDE))
        sums, counts = F.adaptive_avg_pool2d(total, size)
        means: Tensor = sums / counts
        return means
