"""Packing samples into shards: all cores, safe to kill, and nothing left out silently."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...models.bounds import Count, Limit, Name, Natural, Processes, check_ranges
from ..files import only_command_in
from ..shards import set_index
from ..shards.folder_walk import Skipped, escaped
from ..shards.index import ShardIndex
from ..shards.writer import Sample, finished, index_path, own_shard, remove_unfinished, write_shard
from . import report_file
from .check_image import DepthForm, UnusableError, is_reduced, is_whole, prepare
from .find_images import RawSample, SampleListing
from .listing import val_split
from .listing.sample_table import Selection, facts, hashes_of
from .listing.val_split import ValSplit
from .process_pool import spread

_FEW = 200  # samples that may be decoded once more, to know how many can be used


@dataclass(frozen=True)
class PackConfig:
    """How samples are put into shards.

    Attributes:
        shard_bytes: a shard is closed when its sources reach this size; 0 for no limit.
        shard_samples: or when it has so many samples; 0 for no limit.
        val: samples that are kept aside for evaluation.
        minimum_side: images with a shorter side are left out, in pixels.
        side: the shortest side to which larger images are brought, in pixels; 0 stores them as they are.
        depth: what becomes of depth maps, as ``check_image.prepare`` says.
        processes: how many work at once; 0 for one a core.
        prefix: of the names of the shards.
    """

    shard_bytes: Limit = 500_000_000
    shard_samples: Natural = 50_000  # what writes a shard keeps some 2 KB for each until it is closed
    val: Natural = 0
    minimum_side: Count = 1
    side: Natural = 0
    depth: DepthForm = "stored"
    processes: Processes = 0
    prefix: Name = "shard"

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.shard_bytes and not self.shard_samples:
            raise ValueError("one of shard_bytes and shard_samples must limit the shards")
        if Path(self.prefix).name != self.prefix or self.prefix.startswith("."):
            raise ValueError(f"prefix must begin a file's name, without slashes or a dot first, got {self.prefix!r}")


class PackReport(NamedTuple):
    """What came of packing."""

    samples: int
    shards: int
    val: int
    skipped: list[Skipped]
    classes: list[str]  # names in the order of their numbers; empty where labels are numbers, or there are none
    whole_jpegs: int  # large ones whose parts cannot be decoded alone, so that each crop decodes more than it shows
    side: int = 0  # to which larger images were brought
    reduced: int = 0  # images of that shortest side


class _Written(NamedTuple):
    """What lies in the shards of a folder."""

    samples: int
    whole_jpegs: int
    reduced: int


class PackTask(NamedTuple):
    """One shard to write, as a worker gets it."""

    path: Path
    sources: Sequence[RawSample]
    minimum_side: int
    depth: DepthForm
    side: int
    plan: str  # stands for everything that decides what the shard will hold
    provenance: dict[str, Any]


def pack(gathered: SampleListing, destination: Path, config: PackConfig, progress: Callable[[str], None]) -> PackReport:
    """Writes the samples into shards below a folder and gives, also as ``report.json``, what was left out.

    The samples stand in a keyed order, so that each shard is a fair draw of all of them. Called again after a kill it
    writes only what is missing; the result is the same to the byte. With ``val``, the shards lie in ``train/``
    and ``validation/``.

    Raises:
        ValueError: nothing can be used, or nothing is left for one of the two parts, or the folder holds shards of
            another packing, or another command writes there.
    """
    with only_command_in(destination):
        return _pack(gathered, destination, config, progress)


def _pack(
    gathered: SampleListing, destination: Path, config: PackConfig, progress: Callable[[str], None]
) -> PackReport:
    sources = in_packing_order(gathered.sources)
    skipped = list(gathered.skipped)
    parts = {destination: sources}
    if config.val:
        held = _val_split(sources, destination, config, progress)
        skipped += held.skipped
        rest = np.ones(len(sources), bool)
        rest[held.chosen + held.unusable] = False
        numbers = {"val": np.array(held.chosen, np.int64), "train": np.flatnonzero(rest)}
        parts = {destination / part: Selection(sources, which) for part, which in numbers.items()}
    provenance = {"kind": "images", "classes": gathered.classes} | ({"side": config.side} if config.side else {})
    tasks = {folder: plan_shards(folder, part, config, provenance) for folder, part in parts.items()}
    written = _write_parts(destination, tasks, config, skipped, progress)
    val = written[destination / "val"].samples if config.val else 0
    samples, whole, reduced = (sum(numbers) for numbers in zip(*written.values(), strict=True))
    shards = sum(len(planned) for planned in tasks.values())
    left_out = sorted(skipped)
    report = PackReport(samples - val, shards, val, left_out, gathered.classes, whole, config.side, reduced)
    report_file.write(destination, report._asdict() | {"skipped": [left._asdict() for left in report.skipped]})
    return report


def _write_parts(
    destination: Path,
    tasks: Mapping[Path, Sequence[PackTask]],
    config: PackConfig,
    skipped: list[Skipped],
    progress: Callable[[str], None],
) -> dict[Path, _Written]:
    """Writes the shards of each folder and adds to what was left out."""
    report_file.check(destination)
    for folder, planned in tasks.items():
        _check_existing_shards(folder, planned)
    written: dict[Path, _Written] = {}
    for folder, planned in tasks.items():
        samples = whole = reduced = 0
        for index in _write_all(planned, config.processes, progress):  # one at a time: all are as large as the plan
            skipped += [Skipped(*left) for left in index.notes["skipped"]]
            whole += index.notes.get("whole_jpegs", 0)
            reduced += index.notes.get("reduced", 0)
            samples += index.samples
        written[folder] = _Written(samples, whole, reduced)
        if not written[folder].samples:
            _remove_empty(planned)
            raise ValueError(_nothing_left(folder, skipped))
        remove_unfinished(task.path for task in planned)
        set_index.write(folder)
    return written


def automatic_val_count(sources: Sequence[RawSample], minimum_side: int, depth: DepthForm = "stored") -> int:
    """How many samples to hold out where nobody said: a tenth, and at least one.

    Of few samples only those count that can be used, so that there is always something left to train on.

    Raises:
        ValueError: there are not two samples that can be used.
    """
    usable = len(sources)
    if usable <= _FEW:
        left = [found for source in sources if (found := _reason(source, minimum_side, depth)) is not None]
        usable -= len(left)
        if usable < 2:
            raise ValueError(
                f"one image to train on and one to hold out are needed, but only {usable} of {len(sources)} can be used"
                + (f"; for example {left[0].file}: {escaped(left[0].reason)}" if left else "; add images")
            )
    return max(1, usable // 10)


def _val_split(
    sources: Sequence[RawSample], destination: Path, config: PackConfig, progress: Callable[[str], None]
) -> ValSplit:
    """The samples to keep aside, each known to be usable, and those that were tried and are not."""
    attempt = partial(_reason, minimum_side=config.minimum_side, depth=config.depth)
    plan = f"{config.val} {_digest(sources, config)}"
    held = val_split.choose(sources, config.val, attempt, config.processes, destination, plan, progress)
    usable = len(sources) - len(held.unusable)
    if usable <= config.val:
        first = held.skipped[:1]
        raise ValueError(
            f"val = {config.val} leaves nothing to train on: only {usable} of {len(sources)} samples can be "
            f"used" + (f"; for example {first[0].file}: {first[0].reason}" if first else "")
        )
    return held


def _reason(source: RawSample, minimum_side: int, depth: DepthForm) -> Skipped | None:
    """Why a sample cannot be used, if it cannot."""
    try:
        prepare(source, minimum_side, depth)
    except UnusableError as error:
        return _left_out(source, error)
    return None


def in_packing_order(sources: Sequence[RawSample]) -> Selection:
    """Samples in the order in which they are packed, by the numbers of their keys."""
    return Selection(sources, np.argsort(hashes_of(sources), kind="stable"))


def plan_shards(
    folder: Path, sources: Sequence[RawSample], config: PackConfig, provenance: dict[str, Any]
) -> list[PackTask]:
    """Which samples go into which shard: decided by the names, sizes and dates of their files alone."""
    tasks = []
    for number, shard in enumerate(_divided(sources, config)):
        path = folder / f"{config.prefix}-{number:06d}.tar"
        digest = _digest(shard, config)
        tasks.append(PackTask(path, shard, config.minimum_side, config.depth, config.side, digest, provenance))
    return tasks


def _divided(sources: Sequence[RawSample], config: PackConfig) -> Iterator[Selection]:
    begin = held = 0
    for number in range(len(sources)):
        size = sum(seen[0] for seen in facts(sources, number).stamps.values() if seen is not None)
        full = config.shard_bytes and held + size > config.shard_bytes
        if number > begin and (full or number - begin == config.shard_samples):
            yield Selection(sources, np.arange(begin, number))
            begin, held = number, 0
        held += size
    if begin < len(sources):
        yield Selection(sources, np.arange(begin, len(sources)))


def _digest(sources: Sequence[RawSample], config: PackConfig) -> str:
    seen = hashlib.sha256(f"{config.minimum_side}".encode())
    if config.depth != "stored":  # so that shards of before there was a choice can be gone on with
        seen.update(f" {config.depth}".encode())
    if config.side:
        seen.update(f" side {config.side}".encode())
    for number in range(len(sources)):
        known = facts(sources, number)
        seen.update(f"\n{known.key} {known.label}".encode())
        for field, stamp in known.stamps.items():
            seen.update(f" {field} {stamp}".encode())
        seen.update(known.more.encode())
    return seen.hexdigest()[:16]


def _check_existing_shards(folder: Path, tasks: Sequence[PackTask]) -> None:
    """Makes sure that a folder holds no shards but those of an earlier, unfinished packing of the same samples."""
    planned = {task.path: task for task in tasks}
    for path in sorted(folder.glob("*.tar")):
        task = planned.get(path)
        if task is None or not _is_done(task, own_shard(path)):
            raise ValueError(
                f"{path} is of another packing: other images, changed files or other options; remove the old shards, "
                "or pack into another folder"
            )


def _write_all(tasks: Sequence[PackTask], processes: int, progress: Callable[[str], None]) -> Iterator[ShardIndex]:
    """Writes the shards that are not there yet, several at once; gives the indexes of all, one after another."""
    waiting = [task for task in tasks if not _is_done(task, finished(task.path))]
    samples = sum(len(task.sources) for task in tasks)
    done = samples - sum(len(task.sources) for task in waiting)
    if waiting:
        progress(f"{done} of {samples} samples are packed, {len(waiting)} shards are to be written")
    began, before = time.monotonic(), done
    for task, _ in spread(_write, waiting, processes):
        done += len(task.sources)
        left = (time.monotonic() - began) / (done - before) * (samples - done)
        progress(f"{done} of {samples} samples, about {_duration(left)} left, {task.path}")
    yield from (index for task in tasks if (index := finished(task.path)) is not None)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _write(task: PackTask) -> None:
    notes: dict[str, Any] = {"plan": task.plan, "skipped": [], "whole_jpegs": 0}
    notes |= {"reduced": 0} if task.side else {}
    write_shard(task.path, _samples(task, notes), task.provenance, notes)


def _samples(task: PackTask, notes: dict[str, Any]) -> Iterator[Sample]:
    for source in task.sources:
        try:
            sample = prepare(source, task.minimum_side, task.depth, task.side)
        except UnusableError as error:
            notes["skipped"].append(_left_out(source, error))
        else:
            notes["whole_jpegs"] += is_whole(sample)
            if task.side:
                notes["reduced"] += is_reduced(sample, task.side)
            yield sample


def _is_done(task: PackTask, index: ShardIndex | None) -> bool:
    return index is not None and index.notes.get("plan") == task.plan and index.provenance == task.provenance


def _left_out(source: RawSample, error: UnusableError) -> Skipped:
    return Skipped(source.key, escaped(str(source.files["image"])), str(error))


def _nothing_left(folder: Path, skipped: Sequence[Skipped]) -> str:
    first = f"; for example {skipped[0].file}: {skipped[0].reason}" if skipped else ""
    return f"no sample for {folder} can be used, {len(skipped)} were left out{first}"


def _remove_empty(tasks: Sequence[PackTask]) -> None:
    """Removes shards without a sample, which would stand in the way of another try."""
    for task in tasks:
        index_path(task.path).unlink(missing_ok=True)
        task.path.unlink(missing_ok=True)
