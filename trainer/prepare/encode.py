"""Image shards to code shards: what a tokenizer makes of whole images, or of the crops that training would draw.

Every shard of images becomes one shard of codes, shard n by rank n modulo the number of ranks; a shard that is
finished is not made again, so a job that was killed goes on, on any number of ranks, and ends with the same bytes.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from ...models.bounds import Count, Natural, Processes, Seed, Share, Width, check_ranges
from ...models.conditions.code_map import LABELS
from ...models.vqgan.tiling import Tiling
from ..checkpoint.loading import PRECISIONS, LoadedTokenizer, Precision
from ..config import to_mapping
from ..data.collate import LoadedSample
from ..data.crops import CropConfig, TamingCropConfig, crop_box
from ..data.image_samples import ImageReader
from ..data.sampler import SampleDraw, Schedule
from ..distributed import ranks
from ..distributed.child_processes import check_semaphores, end_with
from ..files import only_command_in
from ..images.geometry import Crop
from ..images.known_values import Check, only_bytes, only_labels
from ..shards import set_index
from ..shards.errors import PASSING, SampleError, TooManySampleErrorsError
from ..shards.fields import ARRAY_FIELDS, EXTENSIONS, PROVENANCE_KEYS
from ..shards.index import SampleLocation
from ..shards.reader import ShardSet
from ..shards.writer import Sample, finished, own_shard, remove_unfinished, write_shard
from . import encode_batches, report_file
from .code_members import CodeMemberEncoder, crop_to_codes

__all__ = ["EncodeConfig", "EncodeJob", "EncodeReport", "encode", "provenance"]

_VERSION = 1  # rises when equal images and settings would no longer give equal members
_CARRIED = tuple(name for field in ("cls", *ARRAY_FIELDS) for name in EXTENSIONS[field])  # members that go along


@dataclass(frozen=True)
class EncodeConfig:
    """Which parts of images are encoded, and how.

    Attributes:
        crop: cuts the parts; None encodes whole images, in tiles.
        crops: parts of each image; they are those that training with this crop and seed draws in its first epoch.
        seed: of the crops.
        tile: side that the network sees at once of whole images, in codes.
        halo: border of a tile that is seen but not kept, in codes.
        low_res: side of the small image that is kept beside each grid, in pixels a code; 0 keeps none.
        batch: crops the network sees at once, or whole images of one size that take as much memory in tiles.
        precision: of the networks. In bf16 a few codes are others, and the shards say so.
        num_workers: processes that read and decode, on each rank; 0 does it in between.
        max_bad_fraction: largest share of images that may be left out.
    """

    crop: CropConfig | TamingCropConfig | None = None
    crops: Count = 1
    seed: Seed = 0
    tile: Width = 16
    halo: Natural = 2
    low_res: Natural = 0
    batch: Width = 16
    precision: Precision = "fp32"
    num_workers: Processes = 0
    max_bad_fraction: Share = 0.01

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.crop is None and self.crops > 1:
            raise ValueError(f"whole images are encoded once, got crops = {self.crops}; give the crop's size")
        if self.tile <= 2 * self.halo:
            raise ValueError(f"tile must be more than twice the halo, got {self.tile} and {self.halo} codes")


class EncodeJob(NamedTuple):
    """What is to be done: every rank has the same."""

    source: ShardSet
    folder: Path
    tokenizer: LoadedTokenizer
    condition_tokenizers: Mapping[str, LoadedTokenizer]  # of "segmentation" and "depth", where they have one
    config: EncodeConfig


class EncodeReport(NamedTuple):
    """What lies in the folder in the end."""

    samples: int
    shards: int
    skipped: list[tuple[str, str, str, str]]  # shard, key, kind of error, detail


_Read = list[LoadedSample] | SampleError  # what a worker made of one sample


def provenance(work: EncodeJob) -> dict[str, Any]:
    """What code shards say of how they were made. A prior is trained only beside the tokenizer named here."""
    config = work.config
    maps: Any = {"kind": "commonest label", "labels": LABELS} if work.source.has_field("segmentation") else None
    others = {
        PROVENANCE_KEYS[field]: {
            "kind": "codes",
            "tokenizer": other.metadata["digest"],
            "codes": other.metadata["codes"],
        }
        for field, other in work.condition_tokenizers.items()
    }
    cut: dict[str, Any] = {"tile": config.tile, "halo": config.halo}
    if config.crop is not None:
        cut = {"crop": to_mapping(config.crop), "crops": config.crops, "seed": config.seed}
    if config.precision != "fp32":
        cut["precision"] = config.precision
    metadata = work.tokenizer.metadata
    made_as = {
        "kind": "codes",
        "version": _VERSION,
        "tokenizer": metadata["digest"],
        "factor": metadata["factor"],
        "codes": metadata["codes"],
        PROVENANCE_KEYS["segmentation"]: maps,
        "low": config.low_res,
        **others,
        **cut,
    }
    return json.loads(json.dumps(made_as))  # type: ignore[no-any-return]  # as it reads in an index


def encode(work: EncodeJob, say: Callable[[str], None]) -> EncodeReport:
    """Encode every image of the source into shards in the folder. Every rank must call this, with the same work.

    Images that cannot be used are named, counted by kind and left out; ``report.json`` has all of them.

    Raises:
        ValueError: the folder holds shards that were made otherwise or of other images, another command writes there,
            or the tokenizers do not go together.
        TooManySampleErrorsError: more images were left out than ``max_bad_fraction`` allows; all others are encoded.
        SampleError: a shard of images is missing or cannot be reached; run it again, it goes on.
    """
    with ranks.entered_by_rank_0(only_command_in(work.folder)):
        return _encode(work, say)


def _encode(work: EncodeJob, say: Callable[[str], None]) -> EncodeReport:
    config, factor = work.config, work.tokenizer.metadata["factor"]
    if config.crop is not None and config.crop.size % factor:
        raise ValueError(f"the crops' size must be a multiple of the factor {factor}, got {config.crop.size}")
    made_as = provenance(work)
    report_file.check(work.folder)
    todo = _unfinished(work, made_as)
    mine = [shard for shard in range(ranks.rank(), len(work.source.counts), ranks.world()) if shard in todo]
    tiles = Tiling(config.tile, config.halo) if config.crop is None else None
    coder = CodeMemberEncoder(
        work.tokenizer, work.condition_tokenizers, work.source.has_field("segmentation"), tiles, config.low_res
    )
    for each in (work.tokenizer, *work.condition_tokenizers.values()):
        each.model.to(PRECISIONS[config.precision])
    images = _Images(work.source, _fields(work), config, factor, _checks(work))
    places = [(shard, sample) for shard in mine for sample in range(work.source.counts[shard])]
    check_semaphores(config.num_workers)
    loader = DataLoader(
        images,
        batch_size=None,
        sampler=places,
        collate_fn=_as_it_is,
        num_workers=config.num_workers,
        # Two batches ahead of the network between them: samples come one by one.
        prefetch_factor=max(2, -(-2 * config.batch // config.num_workers)) if config.num_workers else None,
        worker_init_fn=partial(end_with, os.getpid()),
    )
    reads = iter(loader)
    for shard in mine:
        count = work.source.counts[shard]
        notes: dict[str, Any] = {
            "source": work.source.identity(shard),
            "skipped": [],
            "classes": list(work.source.classes_of(shard)),
        }
        samples = _samples(work.source.names[shard], islice(reads, count), coder, config, notes["skipped"], say)
        path = _path(work, shard)
        made = write_shard(path, samples, made_as, notes, packed=True)
        say(f"{path}: {made} grids of {count} images")
    ranks.barrier()
    return _reported(work)


def _unfinished(work: EncodeJob, made_as: dict[str, Any]) -> set[int]:
    """The shards that are still to be made, once all that are there turn out to be of this work."""
    paths = {_path(work, shard): shard for shard in range(len(work.source.counts))}
    if len(paths) < len(work.source.counts):
        raise ValueError("two shards of images have the same file name; encode their folders into different ones")
    todo = set(paths.values())
    for path in sorted(work.folder.glob("*.tar")):
        index, shard = own_shard(path), paths.get(path)
        if shard is None:
            raise ValueError(f"{path} belongs to no shard of these images; remove it, or encode into another folder")
        if index is None:
            continue
        if index.provenance != made_as:
            raise ValueError(f"{path} was made as {index.provenance}, not as {made_as}; encode into another folder")
        if index.notes.get("source") != work.source.identity(shard):
            raise ValueError(f"{path} was made of other images than {work.source.names[shard]} holds now; remove it")
        todo.remove(shard)
    return todo


def _samples(
    shard: str,
    reads: Iterator[_Read],
    coder: CodeMemberEncoder,
    config: EncodeConfig,
    skipped: list[tuple[str, str, str]],
    say: Callable[[str], None],
) -> Iterator[Sample]:
    """The samples of one code shard, a batch at a time; images that cannot be used are noted."""
    tile = None if config.crop is not None else (config.tile * coder.factor) ** 2
    rows = _rows(shard, reads, skipped, say)
    for row, members in encode_batches.members_beside(coder, encode_batches.batches(rows, config.batch, tile)):
        yield Sample(row["key"], members | row["carried"])


def _rows(
    shard: str, reads: Iterator[_Read], skipped: list[tuple[str, str, str]], say: Callable[[str], None]
) -> Iterator[LoadedSample]:
    """What can be encoded; images that cannot be used are noted."""
    for read in reads:
        if not isinstance(read, SampleError):
            yield from read
        elif read.kind in PASSING:
            raise read
        else:
            skipped.append((read.key, read.kind, read.detail))
            say(f"left out: {shard} {read.key}: {read.kind}: {read.detail}")


class _Images(Dataset[_Read]):
    """Reads and cuts the images at given places, in worker processes."""

    def __init__(
        self, source: ShardSet, fields: Sequence[str], config: EncodeConfig, factor: int, checks: Mapping[str, Check]
    ) -> None:
        self._reader = ImageReader(source, fields, config.crop, {}, checks)
        self._reader.check_fields()
        self._reader.check_sides()
        self._schedule = Schedule([source.counts], [1.0], config.seed, window=0)
        self._config = config
        self._factor = factor

    def __getitem__(self, place: tuple[int, int]) -> _Read:
        shards = self._reader.shards
        try:
            rows = self._reader.read(
                SampleLocation(*place), partial(self._choose, SampleDraw(0, 0, SampleLocation(*place)))
            )
            carried = {name: shards.read(*place, name) for name in _CARRIED if shards.has(*place, name)}
            filled = [row for number, whole in enumerate(rows) if (row := self._named(whole, number, carried))]
            if not filled:
                raise shards.sample_error(
                    *place, "too small", f"it does not fill one code of {self._factor} pixels a side"
                )
            return filled
        except SampleError as error:
            return error

    def _choose(self, visit: SampleDraw, key: str, height: int, width: int) -> list[Crop]:
        keys = [self._schedule.crop_key(visit, key, crop) for crop in range(self._config.crops)]
        return [crop_box(self._config.crop, height, width, crop_key) for crop_key in keys]

    def _named(self, row: LoadedSample, number: int, carried: dict[str, bytes]) -> LoadedSample | None:
        """The row as it goes into a shard: of several crops of an image, each has its number in its key."""
        key = f"{row['key']}-{number}" if self._config.crops > 1 else row["key"]
        return crop_to_codes({**row, "key": key, "carried": carried}, self._factor)


def _reported(work: EncodeJob) -> EncodeReport:
    """What all ranks have left in the folder; rank 0 writes it down."""
    indexes = [(shard, finished(_path(work, shard))) for shard in range(len(work.source.counts))]
    there = [(work.source.names[shard], index) for shard, index in indexes if index is not None]
    skipped = [(name, *left) for name, index in there for left in index.notes["skipped"]]
    report = EncodeReport(sum(index.samples for _, index in there), len(there), skipped)
    if ranks.rank() == 0:
        kinds = Counter(kind for _, _, kind, _ in skipped)
        report_file.write(work.folder, report._asdict() | {"kinds": kinds})
        remove_unfinished(_path(work, shard) for shard in range(len(work.source.counts)))
        set_index.write(work.folder)
    if len(skipped) > work.config.max_bad_fraction * work.source.samples:
        kind, key = skipped[0][2], skipped[0][1]
        raise TooManySampleErrorsError(
            f"{len(skipped)} of {work.source.samples} images were left out, more than max_bad_fraction = "
            f"{work.config.max_bad_fraction:g} allows; the first is {key}: {kind}; see "
            f"{work.folder / report_file.REPORT}. Repair them and encode their shards again, or raise the limit"
        )
    return report


def _fields(work: EncodeJob) -> list[str]:
    wanted = {"image", *work.condition_tokenizers} | (
        {"segmentation"} if work.source.has_field("segmentation") else set()
    )
    return sorted(wanted)


def _checks(work: EncodeJob) -> dict[str, Check]:
    """Of maps, which a tokenizer of so many labels reads, or which become the commonest of 256."""
    tokenizer = work.condition_tokenizers.get("segmentation")
    labels = None if tokenizer is None else tokenizer.model.config.num_labels
    return {"segmentation": only_bytes() if labels is None else only_labels(labels)}


def _path(work: EncodeJob, shard: int) -> Path:
    return work.folder / Path(work.source.names[shard]).name


def _as_it_is(read: Any) -> Any:
    """In place of the collation that a loader does by itself; a function of the module can be pickled."""
    return read
