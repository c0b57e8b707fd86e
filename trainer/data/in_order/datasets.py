"""What processes do that read shards in order: each goes through shards of its own and gives batches.

Letters: m samples in a micro-batch, K crops of a visited image, R ranks, W processes that read on each.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from ...images.geometry import Crop
from ...keyed_random import mix
from ...shards.access.in_order import StreamedSample, samples_of, shuffled
from ...shards.access.requests import Repeated
from ...shards.access.tar_headers import DamagedTarError
from ...shards.errors import Kind, SampleError, TooManySampleErrorsError
from ...shards.index import SampleLocation
from ...shards.patterns import without_secrets
from ...shards.remote import RemoteConfig
from ..collate import Batch, LoadedSample, collate
from ..crops import AnyCropConfig, crop_box
from ..image_samples import ImageReader
from ..sampler import crop_key
from ..workers.datasets import ATTEMPTS, Crops, LoadedBatch, ReadUpTo, chosen_of_all
from .dealing import Dealing, ShardLine
from .sample_at_hand import SampleAtHand

_REST = "what follows in it"


class InOrder(NamedTuple):
    """What is read in order, and how a sample of it becomes rows."""

    names: list[str]  # of the shards
    remote: RemoteConfig
    at_hand: SampleAtHand
    reader: ImageReader[SampleAtHand]
    crop: AnyCropConfig | None
    seed: int
    buffer: int  # samples that are shuffled at a time

    def samples(self, shard: int, lost: list[SampleError], order: int | None = None) -> Iterator[StreamedSample]:
        """The samples of a shard; what keeps it from being read to its end is noted.

        Args:
            lost: where it is noted.
            order: of the samples, a key; None leaves them as they lie.
        """
        found = self._readable(shard, lost)
        return found if order is None else shuffled(found, self.buffer, order)

    def _readable(self, shard: int, lost: list[SampleError]) -> Iterator[StreamedSample]:
        name, given = self.names[shard], 0
        try:
            for sample in samples_of(name, self.remote):
                given += 1
                yield sample
        except (OSError, ValueError) as error:
            detail = without_secrets(f"after {given} samples: {error}")
            lost.append(SampleError(_kind_of(error), without_secrets(name), _REST, detail))


class TrainPlan(NamedTuple):
    """Where the readers of a rank go on."""

    rank: int
    world: int
    micro_batch: int
    dealing: Dealing
    reached: list[ReadUpTo]  # by each reader of this rank
    first_reader: int  # that makes the next batch
    crops: range  # of a visited image, K
    first_crops: tuple[int, range]  # of so many batches at the beginning, the crops that are still wanted


class TrainInOrder(IterableDataset[LoadedBatch]):
    """Batches without end. Faulty samples are replaced by those that follow, so that every batch is full."""

    def __init__(self, data: InOrder, plan: TrainPlan) -> None:
        self._data = data
        self._plan = plan
        self._line = ShardLine(len(data.names), mix(data.seed, 0))

    def __iter__(self) -> Iterator[LoadedBatch]:
        slot, workers = _slot()
        reader = (self._plan.first_reader + slot) % workers
        own = _OwnSamples(self._data, self._line, self._plan, reader, workers)
        number = slot
        while True:
            fewer, crops = self._plan.first_crops
            yield self._batch(own, crops if number < fewer else self._plan.crops)._replace(place=(reader, own.reached))
            number += workers

    def _batch(self, own: "_OwnSamples", crops: Sequence[int]) -> LoadedBatch:
        before = Repeated.count
        errors: list[SampleError] = []
        rows = [self._rows(own, crops, errors) for _ in range(self._plan.micro_batch)]
        batches = [collate([each[place] for each in rows]) for place in range(len(crops))]
        return LoadedBatch(batches, errors, len(rows) + len(errors), Repeated.count - before, _taken(own.lost))

    def _rows(self, own: "_OwnSamples", crops: Sequence[int], errors: list[SampleError]) -> list[LoadedSample]:
        for _ in range(ATTEMPTS):
            epoch, place = own.next()
            try:
                return self._data.reader.read(place, partial(self._choose, epoch, crops))
            except SampleError as error:
                errors.append(error)
        raise TooManySampleErrorsError(f"{ATTEMPTS} samples in a row could not be used; the last: {errors[-1]}")

    def _choose(self, epoch: int, crops: Sequence[int], key: str, height: int, width: int) -> list[Crop]:
        keys = [crop_key(self._data.seed, epoch, key, crop) for crop in crops]
        return [crop_box(self._data.crop, height, width, key) for key in keys]


class _OwnSamples:
    """The samples that one reader goes through, from where it stands."""

    def __init__(self, data: InOrder, line: ShardLine, plan: TrainPlan, reader: int, workers: int) -> None:
        self.lost: list[SampleError] = []  # shards that could not be read to their end, since it was emptied
        self.reached = plan.reached[reader]
        self._data = data
        self._line = line
        self._dealing = plan.dealing
        self._readers = plan.world * workers
        self._samples: Iterator[StreamedSample] = iter(())
        self._epoch, self._shard = 0, 0
        self._open(self.reached)

    def next(self) -> tuple[int, SampleLocation]:
        """Takes the next sample at hand; the epoch of its shard, and its place.

        Raises:
            TooManySampleErrorsError: one shard after another has no sample that can be read.
        """
        attempts = min(ATTEMPTS, len(self._data.names))
        for _ in range(attempts + 1):  # the one at hand, which may be at its end, and those that follow
            sample = next(self._samples, None)
            if sample is not None:
                self._data.at_hand.take(sample)
                place = SampleLocation(self._shard, self.reached.taken)
                self.reached = self.reached._replace(taken=self.reached.taken + 1)
                return self._epoch, place
            self._open(ReadUpTo(self.reached.turn + self._readers, 0))
        last = f"; the last: {self.lost[-1]}" if self.lost else ""
        raise TooManySampleErrorsError(f"{attempts} shards in a row gave no sample{last}")

    def _open(self, place: ReadUpTo) -> None:
        """Goes to a place; samples before it come by once more, unlooked at, for order is that of all of them."""
        self._epoch, self._shard = self._line.at(self._dealing.place(place.turn))
        order = mix(self._data.seed, self._epoch, self._shard, 4)
        self._samples = self._data.samples(self._shard, self.lost, order)
        for _ in range(place.taken):
            if next(self._samples, None) is None:
                break
        self.reached = place


class EvalInOrder(IterableDataset[LoadedBatch]):
    """Every sample once over all ranks, in the order of the shards: each rank goes through all, and decodes its own.

    Faulty samples are left out. A rank without any gives the first one of all, without its key.

    Args:
        data: to read.
        rank, world: of this process, R.
        batch: samples of a batch.
        crops: as of ``Stream.eval_batches``.
        dealt: alike.
    """

    def __init__(
        self, data: InOrder, rank: int, world: int, batch: int, crops: Crops, dealt: Literal["samples", "batches"]
    ) -> None:
        self._data = data
        self._rank = rank
        self._world = world
        self._batch_size = batch
        self._crops = crops
        self._together = batch if dealt == "batches" else 1

    def __iter__(self) -> Iterator[LoadedBatch]:
        lost: list[SampleError] = []
        errors: list[SampleError] = []
        rows: list[LoadedSample] = []
        seen, before, first = 0, Repeated.count, None
        for number, (place, sample) in enumerate(self._all(lost)):
            if number == 0:
                first = place, sample
            if number // self._together % self._world != self._rank:
                continue
            rows += self._rows(place, sample, errors)
            seen += 1
            if seen % self._batch_size == 0:
                yield LoadedBatch(_collated(rows), errors, self._batch_size, Repeated.count - before, _taken(lost))
                rows, errors, before = [], [], Repeated.count
        if not seen and first is not None:
            spare = _collated(self._rows(*first, []))
            yield LoadedBatch([batch | {"key": []} for batch in spare], [], 0, Repeated.count - before, lost)
        elif rows or errors or lost:
            yield LoadedBatch(_collated(rows), errors, seen % self._batch_size, Repeated.count - before, lost)

    def _all(self, lost: list[SampleError]) -> Iterator[tuple[SampleLocation, StreamedSample]]:
        for shard in range(len(self._data.names)):
            unread: list[SampleError] = []
            for number, sample in enumerate(self._data.samples(shard, unread)):
                yield SampleLocation(shard, number), sample
            lost += unread if shard % self._world == self._rank else []  # which all ranks meet

    def _rows(self, place: SampleLocation, sample: StreamedSample, errors: list[SampleError]) -> list[LoadedSample]:
        self._data.at_hand.take(sample)
        try:
            return self._data.reader.read(place, self._choose)
        except SampleError as error:
            errors.append(error)
            return []

    def _choose(self, key: str, height: int, width: int) -> list[Crop]:
        keyed = partial(crop_key, self._data.seed, 0, key)
        return chosen_of_all(self._data.crop, self._crops, keyed, height, width)


def _collated(rows: list[LoadedSample]) -> list[Batch]:
    return [collate(rows)] if rows else []


def _taken(lost: list[SampleError]) -> list[SampleError]:
    """What a list holds, which is emptied."""
    taken, lost[:] = list(lost), []
    return taken


def _slot() -> tuple[int, int]:
    """The number of this worker, and how many there are; the training process is one where it reads itself."""
    info: Any = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def _kind_of(error: Exception) -> Kind:
    if isinstance(error, FileNotFoundError):
        return "missing shard"
    if isinstance(error, DamagedTarError):
        return "truncated shard" if "is cut off" in str(error) else "damaged member"
    return "unreachable"
