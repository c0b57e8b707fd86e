"""The stream of batches out of shards without indexes: each is read from its beginning to its end.

Nobody knows how many samples there are before they were read, so the position is how far each reader has come: kept in
the state of a run, and exact where as many ranks and workers go on.

Letters: R ranks, W processes that read on each, A micro-batches of a step and rank, K crops of a visited image.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from ...distributed import ranks
from ...images.known_values import Check
from ...shards.access.in_order import samples_of
from ...shards.errors import SampleErrorLog
from ...shards.index import SampleLocation
from ...shards.patterns import expand, without_secrets
from ..batch_stream import BatchStream
from ..collate import Batch, rebatched
from ..config import check_fields
from ..crops import CodeCropConfig
from ..image_samples import ImageReader
from ..samples import CHANCE, TRIED, refuse_out_of_range
from ..workers.datasets import Crops, LoadedBatch, ReadUpTo
from .datasets import EvalInOrder, InOrder, TrainInOrder, TrainPlan
from .dealing import Dealing
from .sample_at_hand import SampleAtHand

_LOG = logging.getLogger(__name__)


class InOrderStream(BatchStream):
    """Batches of images for one rank of a job, out of shards that are read in order by webdataset.

    Arguments as of ``BatchStream``. All ranks construct it alike but for ``rank``, which alone reads the beginning of
    the first shard if it is 0.

    Raises:
        ValueError: the batches do not divide, a field is not an image's or in none of the first samples, or the first
            shard is damaged.
        FileNotFoundError: no shard is named, or the first one is missing.
        OSError: it cannot be reached.
    """

    def _open(self, fields: Sequence[str], checks: Mapping[str, Check]) -> None:
        config = self.config
        check_fields(fields, config)
        names = expand(config.shards)
        at_hand = SampleAtHand(names)
        assert not isinstance(config.crop, CodeCropConfig)  # which the config refuses
        reader = ImageReader(at_hand, fields, config.crop, config.extensions, checks)
        self._data = InOrder(names, config.remote, at_hand, reader, config.crop, self._seed, config.shuffle_buffer)
        self.samples = 0
        self.fingerprint = hashlib.sha256("\n".join(map(_last_part, names)).encode()).hexdigest()[:16]
        self._errors = SampleErrorLog(config.max_bad_fraction, 0)
        self._lost = SampleErrorLog(config.max_bad_fraction, len(names), "shard")
        self._dealing = Dealing()
        self._going_on = 0  # the step at which this begins
        self._start = self._beginning()  # how far each reader of this rank is then
        self._before = self._after = self._start  # and before and after the images that batches are made of now
        if self._rank == 0:  # whose word holds for all
            self._look_at_first_samples()

    def _look_at_first_samples(self) -> None:
        """Reads the beginning of the first shard, for what would be wrong with all."""
        name, reader = self._data.names[0], self._data.reader
        first = list(islice(samples_of(name, self.config.remote), TRIED))
        if not first:
            raise ValueError(f"no sample is in {without_secrets(name)}")
        there = sorted({extension for sample in first for extension in sample if not extension.startswith("__")})
        reader.check_extensions(without_secrets(name), there)
        wrong = []
        for number, sample in enumerate(first):
            self._data.at_hand.take(sample)
            wrong.append(reader.out_of_range(SampleLocation(0, number)))
        refuse_out_of_range(wrong, self.config.max_bad_fraction + CHANCE)

    @property
    def sample_errors(self) -> Counter[str]:
        """How many samples this rank had to replace or leave out, and shards that could not be read to their end."""
        return self._errors.counts + self._lost.counts

    @property
    def provenance(self) -> dict[str, Any]:
        """Nothing: indexes would say it."""
        return {}

    @property
    def classes(self) -> list[tuple[str, tuple[str, ...]]]:
        """No names: indexes would have them."""
        return [(without_secrets(self._data.names[0]), ())]

    @property
    def _readers(self) -> int:
        """Processes that go through shards for this rank, W."""
        return max(self._workers, 1)

    def train_batches(self, start_step: int = 0) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each optimizer step, from ``start_step`` on, without end. All ranks call this.

        Starting anywhere but at 0 needs the state of that step, and costs the reading of a part of a shard.

        Raises:
            ValueError: ``validate_state`` was not given the state of that step, or ranks have different numbers of
                workers.
            TooManySampleErrorsError: more samples or shards than ``max_bad_fraction`` allows cannot be used.
        """
        if start_step != self._going_on:
            raise ValueError(
                f"fetch: stream can go on at step {self._going_on}, whose state it was given, and not at {start_step}"
            )
        workers = ranks.all_gather_object(self._readers)
        if len(set(workers)) > 1:
            raise ValueError(f"ranks have different numbers of workers, {sorted(set(workers))}; set num_workers")
        self._before = self._after = self._start
        return self._train_batches(start_step)

    def _train_batches(self, start_step: int) -> Iterator[list[Batch]]:
        crops_each = self.config.crops_per_image
        block, first = divmod(start_step, crops_each)
        plan = TrainPlan(
            self._rank,
            self._world,
            self._micro_batch,
            self._dealing,
            self._start,
            block * self.accumulation % self._readers,
            range(crops_each),
            (self.accumulation, range(first, crops_each)),
        )
        deliveries = self._load(TrainInOrder(self._data, plan), self._workers)
        while True:
            made = [next(deliveries) for _ in range(self.accumulation)]
            self._before, reached = self._after, dict(enumerate(self._after))
            reached.update(delivery.place for delivery in made if delivery.place is not None)
            self._after = list(reached.values())
            for number in range(crops_each - first):
                yield [delivery.batches[number] for delivery in made]
            first = 0

    def eval_batches(
        self, batch: int, crops: Crops | None = None, dealt: Literal["samples", "batches"] = "samples"
    ) -> Iterator[Batch]:
        """As ``Stream.eval_batches``, with the same batches; but every rank reads all shards, by one process."""
        data = EvalInOrder(self._data, self._rank, self._world, batch, "center" if crops is None else crops, dealt)
        made = (made for delivery in self._load(data, min(self._workers, 1)) for made in delivery.batches)
        yield from rebatched(made, batch)

    def _note(self, delivery: LoadedBatch) -> None:
        super()._note(delivery)
        self._lost.add(len(delivery.lost), list(delivery.lost))

    def state_dict(self, step: int) -> dict[str, object]:
        """What must be stored to go on after ``step`` optimizer steps; equal on all ranks, all of which call it."""
        own = self._before if step % self.config.crops_per_image else self._after
        every = ranks.all_gather_object((self._rank, own))
        reached = [place for _, places in sorted(dict(every).items()) for place in places]
        return self._order | {
            "step": step,
            "readers": [self._world, self._readers],
            "reached": [list(place) for place in reached],
            "left": list(self._dealing.left),
            "then": self._dealing.then,
        }

    @property
    def _order(self) -> dict[str, object]:
        """What decides the order besides the readers."""
        return {
            "fetch": "stream",
            "seed": self._seed,
            "global_batch": self._global_batch,
            "crops_per_image": self.config.crops_per_image,
            "shuffle_buffer": self.config.shuffle_buffer,
            "shards": [len(self._data.names)],
            "fingerprint": self.fingerprint,
        }

    def validate_state(self, state: dict[str, object]) -> None:
        """Makes sure that a stored state belongs to this stream, and goes on from it.

        With as many ranks and workers exactly; with others, shards that were begun are read from their beginning, which
        is said.

        Raises:
            ValueError: something that decides the order differs; all of it is named.
        """
        self._refuse_other(self._order, state)
        stored: Any = state
        reached = [ReadUpTo(*place) for place in stored["reached"]]
        dealing = Dealing(tuple(stored["left"]), stored["then"])
        before, now = tuple(stored["readers"]), (self._world, self._readers)
        self._going_on = stored["step"]
        if before == now:
            self._dealing = dealing
            self._start = reached[self._rank * self._readers :][: self._readers]
            return
        self._dealing, self._start = dealing.anew(reached), self._beginning()
        if self._rank == 0:
            _LOG.warning(
                "the run was saved by %d ranks with %d readers each, and %d with %d go on: the position is kept to "
                "whole shards, so that samples of %d shards that were begun come once more in this epoch",
                *before, *now, sum(place.taken > 0 for place in reached),
            )  # fmt: skip

    def _beginning(self) -> list[ReadUpTo]:
        """Where the readers of this rank begin with what is dealt."""
        return [ReadUpTo(self._rank * self._readers + reader, 0) for reader in range(self._readers)]


def _last_part(name: str) -> str:
    return name[name.rfind("/") + 1 :]
