"""Where samples come from, and how they are cut."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ...models.bounds import Count, Name, Natural, Positive, Processes, Share, check_ranges
from ..distributed.child_processes import usable_cores
from ..distributed.process.rank_info import rank_info_from_env
from ..schema import MAY_CHANGE
from ..shards.fields import CODE_FIELDS, EXTENSIONS, IMAGE_FIELDS
from ..shards.remote import RemoteConfig
from .crops import AnyCropConfig, CodeCropConfig, CropConfig

_WORKERS, _WORKERS_OF_CODES = 8, 2  # processes, at most


@dataclass(frozen=True)
class SourceConfig:
    """One of several data sets that a stream mixes.

    Attributes:
        shards: as in DataConfig.
        weight: its share of the stream, on any scale.
    """

    shards: tuple[Name, ...] = field(metadata=MAY_CHANGE)
    weight: Positive = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, got {self.weight}; leave the source out instead")
        check_ranges(self)


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how they are cut.

    Attributes:
        shards: folders, files, wildcards or brace patterns of tar shards with indexes.
        mixture: several data sets instead of ``shards``.
        crop: which parts of an image (or grid of codes) samples show; None takes them whole.
        extensions: extension to read a field from, where it is not the usual one: {"segmentation": "seg.png"}.
        shuffle_window: shards shuffled together; 0 shuffles over all of them. Smaller windows need less of a slow
            or remote store at a time. None takes 64 of shards that ``pack`` or ``encode`` made, each a fair draw of the
            whole, and all of others, or with lanes; and what a run that is gone on with began with.
        shuffle_buffer: samples of a shard that each process keeps in memory to shuffle, where ``remote.fetch`` is
            "stream"; 0 leaves them as they lie.
        lanes: deals the samples of a window to the rows of a global batch in lanes, so that N nodes read each shard
            about once between them, and not each node every shard. Of one data set, not of a mixture.
        crops_per_image: crops made of an image each time it is visited (and decoded once); they go to as many
            consecutive steps, so that no batch has two of them.
        max_repeats: how often a sample may be visited to fill a global batch. 0 takes what a tiny data set needs,
            and says so.
        num_workers: processes that read and decode, on each rank; 0 does it in the training process. None takes as many
            as this rank's share of the cores allows beside it, at most 8 for images and 2 for codes; 0 without a GPU,
            where the cores train.
        prefetch: micro-batches that each worker reads ahead.
        max_bad_fraction: largest share of samples that may be unusable.
        remote: how shards are read that lie elsewhere.
    """

    shards: tuple[Name, ...] = field(default=(), metadata=MAY_CHANGE)
    mixture: tuple[SourceConfig, ...] = field(default=(), metadata=MAY_CHANGE)
    crop: AnyCropConfig | None = field(default_factory=CropConfig)
    extensions: dict[str, Name] = field(default_factory=dict)
    shuffle_window: Natural | None = field(default=None, metadata=MAY_CHANGE)  # a run's state refuses another
    shuffle_buffer: Natural = 1000
    lanes: bool = False
    crops_per_image: Count = 1
    max_repeats: Natural = 0
    num_workers: Processes | None = field(default=None, metadata=MAY_CHANGE)
    prefetch: Count = field(default=2, metadata=MAY_CHANGE)
    max_bad_fraction: Share = field(default=0.01, metadata=MAY_CHANGE)
    remote: RemoteConfig = field(default_factory=RemoteConfig, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        check_ranges(self)
        if bool(self.shards) == bool(self.mixture):
            raise ValueError("give either shards or mixture, and not both")
        if self.lanes and self.mixture:
            raise ValueError("lanes need one data set: leave lanes out, or give shards in place of mixture")
        if self.in_order:
            self._check_in_order()
        unknown = sorted(set(self.extensions) - set(EXTENSIONS))
        if unknown:
            raise ValueError(f"extensions names unknown fields {unknown}; known are {sorted(EXTENSIONS)}")

    def _check_in_order(self) -> None:
        """Makes sure that nothing is asked for that needs to know how many samples shards have, and where they lie."""
        needing = {
            "mixture": bool(self.mixture),
            "lanes": self.lanes,
            "shuffle_window (give shuffle_buffer)": self.shuffle_window is not None,
            "max_repeats": bool(self.max_repeats),
            "a crop of codes": self.holds_codes,
        }
        asked = [name for name, is_asked in needing.items() if is_asked]
        if asked:
            raise ValueError(
                f"remote.fetch: stream reads shards without indexes, and {', '.join(asked)} needs them; omit "
                "that, or index the shards with: smalti index SHARDS"
            )

    @property
    def in_order(self) -> bool:
        """Whether shards are read from beginning to end, without indexes."""
        return self.remote.fetch == "stream"

    @property
    def holds_codes(self) -> bool:
        """Whether samples are grids of codes, and not images."""
        return isinstance(self.crop, CodeCropConfig)

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """The data sets, one or several."""
        return self.mixture or (SourceConfig(self.shards),)


def accumulation_of(global_batch: int, micro_batch: int, rank: int, world: int) -> int:
    """Micro-batches of each rank in a step.

    Raises:
        ValueError: the batches do not divide.
    """
    if min(global_batch, micro_batch, world) < 1 or not 0 <= rank < world:
        raise ValueError(
            f"batches and world must be at least 1 and 0 <= rank < world, got global_batch={global_batch}, "
            f"micro_batch={micro_batch}, rank={rank}, world={world}"
        )
    if global_batch % (micro_batch * world):
        raise ValueError(
            f"global_batch = {global_batch} must be a multiple of micro_batch x world = {micro_batch} x {world} = "
            f"{micro_batch * world}; change one of them"
        )
    return global_batch // (micro_batch * world)


def check_fields(fields: Sequence[str], config: DataConfig) -> None:
    """Makes sure that the fields exist and go with the crop.

    Raises:
        ValueError: they do not.
    """
    unknown = sorted(set(fields) - set(EXTENSIONS))
    if unknown:
        raise ValueError(f"unknown fields {unknown}; known are {sorted(EXTENSIONS)}")
    wrong = [name for name in fields if name in (IMAGE_FIELDS if config.holds_codes else CODE_FIELDS)]
    if wrong:
        needed = "a crop of kind 'patch' or 'taming'" if config.holds_codes else "a crop of kind 'codes'"
        kind = "none" if config.crop is None else config.crop.kind
        raise ValueError(f"fields {wrong} need {needed}, the data section has {kind!r}")
    if not set(fields) - {"cls"}:
        raise ValueError(f"fields must name something besides 'cls', got {list(fields)}")


def usual_workers(holds_codes: bool) -> int:
    """How many processes read for a rank where nobody said: none where the cores train."""
    if not torch.cuda.is_available():
        return 0
    share = usable_cores() // max(rank_info_from_env(os.environ).local_world, 1)
    return min(max(share - 1, 0), _WORKERS_OF_CODES if holds_codes else _WORKERS)
