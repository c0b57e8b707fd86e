"""Samples to batches: padding, stacking, joining and cutting micro-batches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Batch = dict[str, Tensor | list[str]]
LoadedSample = dict[str, Any]  # one row of a batch: arrays, numbers and the key


def collate(items: Sequence[LoadedSample]) -> Batch:
    """Rows put together: a field's tensors get a first dimension B, keys become a list.

    Raises:
        ValueError: rows differ in shape.
    """
    batch: Batch = {}
    for field in items[0]:
        values = [item[field] for item in items]
        if field == "key":
            batch[field] = values
            continue
        arrays = [np.asarray(value) for value in values]
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(
                f"{field!r} has different shapes in one batch: {sorted({array.shape for array in arrays})}; "
                "set a crop, or use batches of 1"
            )
        batch[field] = torch.from_numpy(_stacked(arrays))
    return batch


def _stacked(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays of one shape under each other, the last dimension densest.

    ``np.stack`` alone would lay them out as they lie, which for views of pixels takes up to eight times as long.
    """
    return np.stack(arrays, out=np.empty((len(arrays), *arrays[0].shape), np.result_type(*arrays)))


def join(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches in one."""
    joined: Batch = {}
    for field in batches[0]:
        values = [batch[field] for batch in batches]
        if field == "key":
            joined[field] = [key for keys in values for key in keys]
        else:
            joined[field] = torch.cat([value for value in values if isinstance(value, Tensor)])
    return joined


def reordered(batch: Batch, order: Sequence[int]) -> Batch:
    """The rows of a batch in another order."""
    return {
        field: values[list(order)] if isinstance(values, Tensor) else [values[row] for row in order]
        for field, values in batch.items()
    }


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    return {field: values[rows] for field, values in batch.items()}


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows in batches of ``size``; the last may be smaller."""
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(len(part["key"]) for part in waiting) >= size:
            joined = join(waiting)
            yield part_of(joined, slice(size))
            rest = part_of(joined, slice(size, None))
            waiting = [rest] if rest["key"] else []
    if waiting:
        yield join(waiting)
