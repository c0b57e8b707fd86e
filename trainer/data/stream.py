"""The stream of batches: which samples a step sees is a function of (seed, step) and nothing else.

Positions of the stream are dealt to micro-batches and ranks by arithmetic; worker processes are asked for numbers and
keep no state. So ranks, workers, prefetching, accumulation and restarts cannot change what a step sees.

Letters: G samples in a global batch, m in a micro-batch, R ranks, A = G / (m R) micro-batches a step and rank,
K crops of a visited image.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Literal

from ..distributed.process.rank_info import rank_info_from_env
from ..images.known_values import Check
from ..shards.errors import SampleErrorLog
from ..shards.reader import LOOKED_AT, ShardSet
from .batch_stream import BatchStream
from .code_samples import CodeReader
from .collate import Batch as Batch
from .collate import rebatched
from .config import DataConfig as DataConfig
from .config import SourceConfig as SourceConfig
from .config import check_fields
from .crops import CodeCropConfig
from .image_samples import ImageReader
from .sampler import Schedule
from .samples import SampleReader
from .shards_ahead import ShardsAhead
from .workers.datasets import BatchRequest, Crops, EvalDataset, TrainDataset

_WINDOW = 64  # shards; a process holds as many open
_LOG = logging.getLogger(__name__)


class Stream(BatchStream):
    """Batches of samples for one rank of a job, out of shards with indexes.

    All ranks construct it with the same arguments but ``rank``; nothing is exchanged between them.

    Arguments as of ``BatchStream``.

    Raises:
        ValueError: the config asks for ``fetch: stream`` (then use ``open_stream``), the batches do not divide, a field
            is nowhere in the shards, or images are too small for the crops.
        FileNotFoundError: a shard or its index is missing.
    """

    def _open(self, fields: Sequence[str], checks: Mapping[str, Check]) -> None:
        config = self.config
        if config.in_order:
            raise ValueError("fetch: stream reads shards without indexes; open such a config with open_stream")
        self._sets = [ShardSet.open(source.shards, config.remote) for source in config.sources]
        self.samples = sum(shards.samples for shards in self._sets)
        self.fingerprint = "-".join(shards.fingerprint for shards in self._sets)
        check_fields(fields, config)
        self._readers = [_reader(shards, fields, config, checks) for shards in self._sets]
        for reader in self._readers:
            reader.check_fields()
            reader.check_sides()
            if self._rank == 0:  # whose word holds for all
                reader.check_values(config.max_bad_fraction)
                say_unlisted(reader.shards)
        self._shuffle_in(self._usual_window() if config.shuffle_window is None else config.shuffle_window)
        self._errors = SampleErrorLog(config.max_bad_fraction, self.samples)

    def _usual_window(self) -> int:
        """How many shards are shuffled together where nobody said."""
        kinds = {making.provenance.get("kind") for shards in self._sets for making in shards.makings}
        return _WINDOW if kinds <= {"images", "codes"} and not self.config.lanes else 0

    def _shuffle_in(self, window: int) -> None:
        """Sets the order of samples, in windows of so many shards."""
        weights = [source.weight for source in self.config.sources]
        counts, rows = [shards.counts for shards in self._sets], self._global_batch if self.config.lanes else 0
        self._window = window
        self._schedule = Schedule(counts, weights, self._seed, window, rows)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the samples came about, as all their shards say.

        Raises:
            ValueError: they say different things.
        """
        first = self._sets[0].provenance
        if any(shards.provenance != first for shards in self._sets):
            raise ValueError(f"the sources of {self.config.mixture} were made in different ways")
        return first

    @property
    def classes(self) -> list[tuple[str, tuple[str, ...]]]:
        """For each source, its first shard and the names of its classes in the order of their numbers, if it has any.

        Raises:
            ValueError: shards of one source number their classes differently.
        """
        return [(shards.names[0], shards.classes) for shards in self._sets]

    def train_batches(self, start_step: int = 0) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each optimizer step, from ``start_step`` on, without end.

        Starting anywhere costs the same as starting at 0. Every rank yields for ever, so none waits for another.

        Raises:
            ValueError: there are fewer samples than one global batch, or the shards in use do not fit the local cache.
            TooManySampleErrorsError: more samples than ``max_bad_fraction`` allows cannot be used.
        """
        self._check_size()
        for shards in self._sets:
            window = self._window or len(shards.names)
            shards.files.check_cache(-(-window // self._world) if self.config.lanes else window)
        return self._train_batches(start_step)

    def _train_batches(self, start_step: int) -> Iterator[list[Batch]]:
        crops_each = self.config.crops_per_image
        images = TrainDataset(self._readers, self._schedule, self.config.crop)
        deliveries = self._load(images, self._workers, self._requests(start_step))
        first, step = start_step % crops_each, start_step
        with closing(ShardsAhead(self._sets, self._schedule, self._own_rows())) as ahead:
            while True:
                block = [next(deliveries).batches for _ in range(self.accumulation)]
                ahead.at(step // crops_each * self._global_batch)
                for number in range(crops_each - first):
                    step += 1
                    yield [batches[number] for batches in block]
                first = 0

    def _own_rows(self) -> range:
        """The rows of a global batch that this machine reads, if this rank fetches shards for it; else none."""
        place = rank_info_from_env(os.environ)
        if place.local_rank:
            return range(0)
        each = self._global_batch // self._world
        return range(self._rank * each, min(self._rank + place.local_world, self._world) * each)

    def eval_batches(
        self, batch: int, crops: Crops | None = None, dealt: Literal["samples", "batches"] = "samples"
    ) -> Iterator[Batch]:
        """Every sample once over all ranks, in the order of the shards; rank r has the samples r, r + R, ...

        Samples that cannot be used are left out and counted. The last batch of a rank may be smaller, and ranks may
        have different numbers of batches. With fewer samples than ranks, a rank without any gets the first one for
        company: its batch names no keys.

        Args:
            batch: rows of a batch.
            crops: "center" makes the middle of every image, "grid" crops that cover it, a number so many of those
                that training draws in its first epoch; None covers grids of codes and takes the middle of images.
            dealt: "batches" gives rank r the batches r, r + R, ... of neighbors, the same on any number of ranks.
        """
        if crops is None:
            crops = "grid" if self.config.holds_codes else "center"
        images = EvalDataset(self._readers, self._schedule, self.config.crop, crops)
        if dealt == "batches":
            firsts = range(self._rank * batch, self.samples, self._world * batch)
            wanted = (BatchRequest(tuple(range(self.samples)[first : first + batch])) for first in firsts)
            for delivery in self._load(images, self._workers, wanted):
                yield from rebatched(delivery.batches, batch)
            return
        mine = range(self._rank, self.samples, self._world)
        turns = mine or range(min(self.samples, 1))
        requests = (BatchRequest(tuple(turns[start : start + batch])) for start in range(0, len(turns), batch))
        made = rebatched(
            (made for delivery in self._load(images, self._workers, requests) for made in delivery.batches), batch
        )
        yield from made if turns is mine else (spare | {"key": []} for spare in islice(made, 1))

    def state_dict(self, step: int) -> dict[str, object]:
        """What must be stored to go on after ``step`` optimizer steps; equal on all ranks."""
        return {
            "step": step,
            "position": step * self._global_batch,
            "seed": self._seed,
            "global_batch": self._global_batch,
            "window": self._window,
            "lanes": self.config.lanes,
            "crops_per_image": self.config.crops_per_image,
            "weights": [source.weight for source in self.config.sources],
            "shards": [len(shards.names) for shards in self._sets],
            "samples": [shards.samples for shards in self._sets],
            "fingerprint": self.fingerprint,
            "order": "-".join(shards.order for shards in self._sets),
        }

    def validate_state(self, state: dict[str, object]) -> None:
        """Makes sure that a stored state belongs to this stream. Ranks, workers and micro-batches may differ.

        So may the bytes of samples, as when damaged images were repaired, which is said.

        Raises:
            ValueError: something that decides the order differs; all of it is named.
        """
        stored = state.get("window")
        if self.config.shuffle_window is None and isinstance(stored, int):
            self._shuffle_in(stored)
        mine = self.state_dict(0)
        state = {"lanes": False} | state  # older runs had none
        if "order" not in state:  # as older runs stored it
            del mine["order"]
        elif state["order"] == mine["order"] and state["fingerprint"] != mine.pop("fingerprint") and self._rank == 0:
            print("the bytes of some samples have changed since the checkpoint was saved; their keys are the same")
        self._refuse_other({name: value for name, value in mine.items() if name not in ("step", "position")}, state)

    def _requests(self, start_step: int) -> Iterator[BatchRequest]:
        """What this rank asks for, in order. The crops of an image belong to K consecutive steps, a block.

        With lanes a rank has neighboring rows of the global batch, else its micro-batches lie between those of others.
        """
        crops_each = self.config.crops_per_image
        block, first = divmod(start_step, crops_each)
        while True:
            for part in range(self.accumulation):
                before = part * self._world + self._rank
                if self.config.lanes:
                    before = self._rank * self.accumulation + part
                begin = block * self._global_batch + before * self._micro_batch
                yield BatchRequest(tuple(range(begin, begin + self._micro_batch)), tuple(range(first, crops_each)))
            block, first = block + 1, 0

    def _check_size(self) -> None:
        """Makes sure that the samples fill a global batch, some of them several times if need be."""
        if not self.samples:
            raise ValueError("the data set has no samples")
        needed = -(-self._global_batch // self.samples)
        if self.config.max_repeats and self.config.max_repeats < needed:
            raise ValueError(
                f"one global batch has {self._global_batch} samples but the data set only {self.samples}"
                + (f" (x {self.config.max_repeats} repeats)" if self.config.max_repeats > 1 else "")
                + f"; make the batch smaller, or set max_repeats to {needed} or more (0 chooses it)"
            )
        if needed > 1 and not self.config.max_repeats and not self._rank:
            _LOG.warning(
                "the data set has %d samples, fewer than the %d of a global batch: max_repeats = %d was chosen, so "
                "that each is seen up to so many times a step. More images, or a smaller batch.global_batch_size, make "
                "it needless",
                self.samples, self._global_batch, needed,
            )  # fmt: skip


def _reader(
    shards: ShardSet, fields: Sequence[str], config: DataConfig, checks: Mapping[str, Check]
) -> SampleReader[ShardSet]:
    """The reader of a kind of data."""
    if isinstance(config.crop, CodeCropConfig):
        return CodeReader(shards, fields, config.crop, config.extensions, checks)
    return ImageReader(shards, fields, config.crop, config.extensions, checks)


def say_unlisted(shards: ShardSet) -> None:
    """Says how starting can be made fast, where it was not."""
    if shards.unlisted > LOOKED_AT:
        _LOG.warning(
            "the indexes of %d shards had to be read one by one, by each rank; write one for each folder with: "
            "smalti index --keep FOLDER",
            shards.unlisted,
        )
