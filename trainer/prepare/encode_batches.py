"""Rows of images in batches for the networks, encoded beside reading and writing."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..data.collate import LoadedSample
from ..distributed import ranks
from .code_members import CodeMemberEncoder


def batches(rows: Iterable[LoadedSample], most: int, tile: int | None) -> Iterator[list[LoadedSample]]:
    """As many rows as the networks see at once.

    Args:
        most: crops of a batch, or tiles.
        tile: pixels of a tile of whole images, of which a larger image counts as several; None for crops.
    """
    batch: list[LoadedSample] = []
    held = 0.0
    for row in rows:
        height, width = row["image"].shape[-2:]
        size = 1.0 if tile is None else max(height * width / tile, 1.0)
        if batch and held + size > most:
            yield batch
            batch, held = [], 0.0
        batch.append(row)
        held += size
    if batch:
        yield batch


def members_beside(
    coder: CodeMemberEncoder, batches: Iterable[Sequence[LoadedSample]]
) -> Iterator[tuple[LoadedSample, dict[str, bytes]]]:
    """Every row with its members, in order: while a batch is encoded, the one before is written and the next one read.

    Raises:
        What reading or encoding raises, once the batch that is being encoded is done.
    """
    with ThreadPoolExecutor(1, initializer=_as_in_thread, initargs=(ranks.device(), torch.get_num_threads())) as pool:
        ahead: deque[tuple[Sequence[LoadedSample], Any]] = deque()
        for rows in batches:
            ahead.append((rows, pool.submit(coder.members, rows)))
            if len(ahead) > 1:
                yield from _done(*ahead.popleft())
        while ahead:
            yield from _done(*ahead.popleft())


def _done(rows: Sequence[LoadedSample], members: Any) -> Iterator[tuple[LoadedSample, dict[str, bytes]]]:
    return zip(rows, members.result(), strict=True)


def _as_in_thread(device: torch.device, threads: int) -> None:
    """A thread has a current GPU and a number of threads of its own."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
