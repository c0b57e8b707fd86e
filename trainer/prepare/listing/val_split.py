"""Which samples are kept aside for evaluation: chosen once, by all cores, and remembered."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...files import check_own, read_regular, write_own
from ...keyed_random import text_key
from ...shards.folder_walk import Skipped
from ..process_pool import spread
from .raw_sample import RawSample
from .sample_table import facts

FILE = ".val-split.json"
_MARK = b'"val split by smalti"'
_AHEAD = 1.1  # candidates to those that are still needed, so that a few bad ones cost no further round
_EACH = 64  # candidates that a process tries at a time
_LARGEST = 1 << 32  # bytes

Try = Callable[[RawSample], Skipped | None]  # why a sample cannot be used, if it cannot


class ValSplit(NamedTuple):
    """The numbers of the samples that are kept aside, and of those that were tried and cannot be used."""

    chosen: list[int]
    unusable: list[int]
    skipped: list[Skipped]


def choose(
    samples: Sequence[RawSample],
    count: int,
    attempt: Try,
    processes: int,
    memory: Path,
    plan: str,
    progress: Callable[[str], None],
) -> ValSplit:
    """So many samples, in a keyed order of their own, each known to be usable; fewer where there are no more.

    Args:
        attempt: a function that can be pickled.
        memory: a folder that remembers the choice, for another run of the same command.
        plan: stands for everything that decides the choice.
    """
    known = _remembered(memory / FILE, plan)
    if known is not None:
        return known
    keys = np.array([text_key("held out " + facts(samples, n).key) for n in range(len(samples))], np.uint64)
    order = np.argsort(keys, kind="stable").tolist()
    found: dict[int, Skipped | None] = {}
    tried = 0
    while tried < len(order) and (missing := count - sum(why is None for why in found.values())) > 0:
        fresh = order[tried : tried + int(missing * _AHEAD) + 1]
        tried += len(fresh)
        parts = [[samples[number] for number in fresh[begin : begin + _EACH]] for begin in range(0, len(fresh), _EACH)]
        starts = {id(part): begin * _EACH for begin, part in enumerate(parts)}
        for part, reasons in spread(partial(_tried, attempt), parts, processes):
            begin = starts[id(part)]
            found |= dict(zip(fresh[begin : begin + len(part)], reasons, strict=True))
            progress(f"{sum(why is None for why in found.values())} of {count} samples for validation are tried")
    return _kept(memory, plan, _taken(order, found, count))


def _tried(attempt: Try, samples: Sequence[RawSample]) -> list[Skipped | None]:
    return [attempt(sample) for sample in samples]


def _taken(order: Sequence[int], found: dict[int, Skipped | None], count: int) -> ValSplit:
    """The first usable ones in order, and those among them that are not; what was tried beyond stays free."""
    split = ValSplit([], [], [])
    for number in order[: len(found)]:
        if len(split.chosen) == count:
            break
        why = found[number]
        if why is None:
            split.chosen.append(number)
        else:
            split.unusable.append(number)
            split.skipped.append(why)
    return split


def _kept(memory: Path, plan: str, split: ValSplit) -> ValSplit:
    said = {"kind": "val split by smalti", "plan": plan, **split._asdict()}
    memory.mkdir(parents=True, exist_ok=True)
    write_own(memory / FILE, json.dumps(said).encode() + b"\n", _MARK)
    return split


def _remembered(path: Path, plan: str) -> ValSplit | None:
    """The choice of an earlier run for the same samples and options."""
    check_own(path, _MARK)
    try:
        said = json.loads(read_regular(path, _LARGEST))
        if said["plan"] != plan:
            return None
        return ValSplit(said["chosen"], said["unusable"], [Skipped(*left) for left in said["skipped"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
