"""What worker processes do: they are asked for numbers of visits and give batches. They keep no state.

Letters: m samples in a micro-batch, K crops of a visited image.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ...images.geometry import Crop
from ...shards.access.requests import Repeated
from ...shards.errors import SampleError, TooManySampleErrorsError
from ...shards.index import SampleLocation
from ...shards.reader import ShardSet
from ..collate import Batch, LoadedSample, collate, join, reordered
from ..crops import AnyCropConfig, crop_box
from ..sampler import SampleDraw, Schedule
from ..samples import Choose, SampleReader

Crops = Literal["center", "grid"] | int

ATTEMPTS = 64  # samples tried in place of one that cannot be used


class BatchRequest(NamedTuple):
    """What a worker is asked for: of each of m visits, the crops of these K numbers."""

    visits: tuple[int, ...]
    crops: tuple[int, ...] = ()


class ReadUpTo(NamedTuple):
    """How far a reader of shards in order has come."""

    turn: int  # of its shard, among those that are dealt
    taken: int  # samples of it that were given out


class LoadedBatch(NamedTuple):
    """What a worker gives: a batch of m rows for each of the K crops, and what was wrong on the way."""

    batches: list[Batch]
    errors: list[SampleError]
    seen: int  # samples asked for
    repeated: int = 0  # requests to remote shards that had to be made again
    lost: Sequence[SampleError] = ()  # shards that are read in order, and could not be read to their end
    place: tuple[int, ReadUpTo] | None = None  # of the reader in order that made it: its number, and how far it is now


class TrainDataset(Dataset[LoadedBatch]):
    """Answers requests of training: faulty samples are replaced, so that every batch is full."""

    def __init__(
        self, readers: Sequence[SampleReader[ShardSet]], schedule: Schedule, crop: AnyCropConfig | None
    ) -> None:
        self._readers = readers
        self._schedule = schedule
        self._crop = crop

    def __getitem__(self, request: BatchRequest) -> LoadedBatch:
        before = Repeated.count
        _gather(
            self._readers, map(self._schedule.visit, request.visits), lambda v: partial(self._choose, v, request.crops)
        )
        return self._loaded(request)._replace(repeated=Repeated.count - before)

    def _loaded(self, request: BatchRequest) -> LoadedBatch:
        if len(request.crops) == 1 and (batch := self._at_once(request.visits, request.crops[0])) is not None:
            return LoadedBatch([batch], [], len(request.visits))
        errors: list[SampleError] = []
        rows = [self._rows(number, request.crops, errors) for number in request.visits]
        batches = [collate([crops[place] for crops in rows]) for place in range(len(request.crops))]
        return LoadedBatch(batches, errors, len(rows))

    def _at_once(self, numbers: Sequence[int], crop: int) -> Batch | None:
        """A batch that readers make whole; None where one of them cannot, or a sample has a fault."""
        visits = self._schedule.visits(numbers)
        parts: list[Batch] = []
        order: list[int] = []
        for source in sorted({visit.source for visit in visits}):
            rows = [row for row, visit in enumerate(visits) if visit.source == source]
            chosen = partial(self._choose_at, [visits[row] for row in rows], crop)
            try:
                part = self._readers[source].read_batch([visits[row].place for row in rows], chosen)
            except SampleError:  # found again when its sample is read alone, and counted then
                return None
            if part is None:
                return None
            parts.append(part)
            order += rows
        return parts[0] if len(parts) == 1 else reordered(join(parts), np.argsort(order).tolist())

    def _choose_at(self, visits: Sequence[SampleDraw], crop: int, row: int, key: str, height: int, width: int) -> Crop:
        return self._choose(visits[row], (crop,), key, height, width)[0]

    def _rows(self, number: int, crops: Sequence[int], errors: list[SampleError]) -> list[LoadedSample]:
        visit = self._schedule.visit(number)
        for _ in range(ATTEMPTS):
            reader = self._readers[visit.source]
            try:
                return reader.read_surely(visit.place, partial(self._choose, visit, crops))
            except SampleError as error:
                errors.append(error)
                visit = self._schedule.substitute(number, visit)
        raise TooManySampleErrorsError(f"{ATTEMPTS} samples in a row could not be used; the last: {errors[-1]}")

    def _choose(self, visit: SampleDraw, crops: Sequence[int], key: str, height: int, width: int) -> list[Crop]:
        keys = [self._schedule.crop_key(visit, key, crop) for crop in crops]
        return [crop_box(self._crop, height, width, crop_key) for crop_key in keys]


class EvalDataset(Dataset[LoadedBatch]):
    """Answers requests for every sample once: faulty samples are left out."""

    def __init__(
        self, readers: Sequence[SampleReader[ShardSet]], schedule: Schedule, crop: AnyCropConfig | None, crops: Crops
    ) -> None:
        self._readers = readers
        self._schedule = schedule
        self._crop = crop
        self._crops = crops
        counts = [reader.shards.counts for reader in readers]
        self._shards = [(source, shard) for source, shards in enumerate(counts) for shard in range(len(shards))]
        self._ends = np.cumsum([count for shards in counts for count in shards])

    def __getitem__(self, request: BatchRequest) -> LoadedBatch:
        errors: list[SampleError] = []
        rows: list[LoadedSample] = []
        before, visits = Repeated.count, [self._visit(number) for number in request.visits]
        _gather(self._readers, visits, lambda visit: partial(self._choose, visit))
        for visit in visits:
            try:
                rows += self._readers[visit.source].read_surely(visit.place, partial(self._choose, visit))
            except SampleError as error:
                errors.append(error)
        return LoadedBatch([collate(rows)] if rows else [], errors, len(visits), Repeated.count - before)

    def _visit(self, number: int) -> SampleDraw:
        slot = int(np.searchsorted(self._ends, number, side="right"))
        source, shard = self._shards[slot]
        before = int(self._ends[slot - 1]) if slot else 0
        return SampleDraw(source, 0, SampleLocation(shard, number - before))

    def _choose(self, visit: SampleDraw, key: str, height: int, width: int) -> list[Crop]:
        return chosen_of_all(
            self._crop, self._crops, lambda crop: self._schedule.crop_key(visit, key, crop), height, width
        )


def chosen_of_all(
    config: AnyCropConfig | None, crops: Crops, crop_key: Callable[[int], int], height: int, width: int
) -> list[Crop]:
    """The crops of a sample that is visited once.

    Args:
        config: how they are cut.
        crops: which ones, as of ``Stream.eval_batches``.
        crop_key: of the number of a crop, where crops are drawn.
        height, width: of the sample.
    """
    if config is None:
        return [crop_box(None, height, width, 0)]
    if crops == "center":
        return [config.center(height, width)]
    if crops == "grid":
        return config.grid(height, width)
    return [config.draw(height, width, crop_key(crop)) for crop in range(crops)]


def _gather(
    readers: Sequence[SampleReader[ShardSet]], visits: Iterable[SampleDraw], choose: Callable[[SampleDraw], Choose]
) -> None:
    """Fetches what a batch needs of remote shards at once, for each source."""
    if not any(reader.shards.files.are_asked for reader in readers):
        return
    wanted: dict[int, list[tuple[SampleLocation, Choose]]] = defaultdict(list)
    for visit in visits:
        wanted[visit.source].append((visit.place, choose(visit)))
    for source, samples in wanted.items():
        readers[source].gather(samples)
