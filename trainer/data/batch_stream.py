"""What all streams of batches have in common: their place in a job, and how batches come from their workers."""

import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from ..distributed.child_processes import check_semaphores, end_with
from ..images.known_values import Check
from ..shards.errors import SampleErrorLog
from .collate import Batch
from .config import DataConfig, accumulation_of, usual_workers
from .workers.datasets import BatchRequest, Crops, LoadedBatch
from .workers.memory import receive, send

_LOG = logging.getLogger(__name__)


class BatchStream(ABC):
    """Batches of samples for one rank of a job.

    Args:
        config: where samples come from and how they are cut.
        fields: what batches hold: "image", "segmentation", "depth", "cls", or "codes", "segmentation_codes", "cls".
            Always there besides: "key", "box", "source_size", "flip".
        global_batch: samples of one optimizer step over all ranks, G.
        micro_batch: samples of one batch, m.
        rank, world: of this process, R.
        seed: of the order and of all crops.
        checks: of the numbers in fields; samples that hold others are errors.

    Attributes:
        samples: in the data set; 0 where nobody knows before they are read.
        fingerprint: of the data set.
        accumulation: micro-batches in a step of this rank, A.
        config: as given.
        repeated_requests: of this rank to remote shards, that failed, came too late or with wrong bytes.
    """

    samples: int
    fingerprint: str
    _errors: SampleErrorLog

    def __init__(
        self,
        config: DataConfig,
        fields: Sequence[str] = ("image",),
        *,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        checks: Mapping[str, Check] | None = None,
    ) -> None:
        self.accumulation = accumulation_of(global_batch, micro_batch, rank, world)
        self.config = config
        self.repeated_requests = 0
        self._global_batch = global_batch
        self._micro_batch = micro_batch
        self._rank = rank
        self._world = world
        self._seed = seed
        self._shared_memory_full = False
        asked = config.num_workers
        self._workers = usual_workers(config.holds_codes) if asked is None else asked  # processes that read
        check_semaphores(self._workers)
        self._open(fields, checks or {})

    @abstractmethod
    def _open(self, fields: Sequence[str], checks: Mapping[str, Check]) -> None:
        """Looks at the shards, for what must be known before the first batch and for what would be wrong with all."""

    @property
    def sample_errors(self) -> Counter[str]:
        """How many samples this rank had to replace (in ``eval_batches``: leave out), by kind."""
        return self._errors.counts

    @property
    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """How the samples came about, as all their shards say."""

    @property
    @abstractmethod
    def classes(self) -> list[tuple[str, tuple[str, ...]]]:
        """For each source, its first shard and the names of its classes in the order of their numbers, if any."""

    @abstractmethod
    def train_batches(self, start_step: int = 0) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each optimizer step, from ``start_step`` on, without end."""

    @abstractmethod
    def eval_batches(
        self, batch: int, crops: Crops | None = None, dealt: Literal["samples", "batches"] = "samples"
    ) -> Iterator[Batch]:
        """Every sample once over all ranks, in the order of the shards."""

    @abstractmethod
    def state_dict(self, step: int) -> dict[str, object]:
        """What must be stored to go on after ``step`` optimizer steps; equal on all ranks, all of which call it."""

    @abstractmethod
    def validate_state(self, state: dict[str, object]) -> None:
        """Makes sure that a stored state belongs to this stream, and goes on from it."""

    @staticmethod
    def _refuse_other(mine: Mapping[str, object], stored: Mapping[str, object]) -> None:
        """Raises ValueError, naming it all, if something that decides the order is not as it was stored."""
        changed = [
            f"{name} was {stored.get(name)!r} and is {value!r}"
            for name, value in mine.items()
            if stored.get(name) != value
        ]
        if changed:
            raise ValueError(
                "the data are not those of the run that is resumed: "
                + "; ".join(changed)
                + ". Restore them, or start a new run in another folder with initial_weights: the old run's folder"
            )

    def _load(
        self, source: Dataset[LoadedBatch], workers: int, requests: Iterable[BatchRequest] | None = None
    ) -> Iterator[LoadedBatch]:
        """What workers make of a data set, asked for in this order; without requests, of one that is gone through."""
        loader: DataLoader[Any] = DataLoader(
            source,
            batch_size=None,
            sampler=requests,
            collate_fn=send,
            num_workers=workers,
            worker_init_fn=partial(end_with, os.getpid()),
            prefetch_factor=self.config.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it would draw from the global one
        )
        for sent in loader:
            delivery, piped = receive(sent)
            if piped and not self._shared_memory_full:
                self._shared_memory_full = True
                _LOG.warning(
                    "rank %d: /dev/shm has no room for batches of %d workers: they come through pipes, which "
                    "costs a copy; give the container more (docker --shm-size, a larger emptyDir), or lower "
                    "num_workers, prefetch or micro_batch_size",
                    self._rank, workers,
                )  # fmt: skip
            self._count_repeated(delivery.repeated)
            self._note(delivery)
            yield delivery

    def _count_repeated(self, requests: int) -> None:
        """Counts requests that were made again, and says so, the more seldom the more there are."""
        before, self.repeated_requests = self.repeated_requests, self.repeated_requests + requests
        if len(str(self.repeated_requests)) > len(str(before)) or (requests and not before):
            _LOG.warning("rank %d: %d requests to remote shards were made again", self._rank, self.repeated_requests)

    def _note(self, delivery: LoadedBatch) -> None:
        """Counts what was wrong on the way of a batch."""
        self._errors.add(delivery.seen, delivery.errors)
