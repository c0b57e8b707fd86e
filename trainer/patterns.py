"""Which shards a list of patterns names: braces, wildcards, folders, URLs."""

import glob
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .index import SUFFIX

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_remote(path: str) -> bool:
    """Whether a path is a URL or a ``pipe:`` and not a place in the local file system."""
    return path.startswith("pipe:") or "://" in path


def expand_braces(pattern: str) -> Iterator[str]:
    """The texts that a pattern like ``train-{000..127}.tar`` or ``{a,b}/x.tar`` stands for, in order.

    A range keeps the width of its first number. Braces without a range or a comma are left as they are.
    """
    parts = _BRACES.split(pattern)
    choices = [[text] if place % 2 == 0 else _choices(text) for place, text in enumerate(parts)]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    """What the inside of a pair of braces stands for."""
    numbers = _RANGE.fullmatch(inside)
    if numbers:
        first, last = numbers.groups()
        step = 1 if int(first) <= int(last) else -1
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]
    return inside.split(",") if "," in inside else ["{" + inside + "}"]


def expand(patterns: Iterable[str]) -> list[str]:
    """The shards that the patterns name, in the order of the patterns; those of a wildcard or a folder by name.

    Raises:
        FileNotFoundError: a wildcard or a folder holds no tar.
        ValueError: nothing is named, or a shard is named twice.
    """
    shards = [shard for pattern in patterns for text in expand_braces(pattern) for shard in _found(text)]
    if not shards:
        raise ValueError("no shards are named; give folders, files, wildcards or patterns like train-{000..127}.tar")
    twice = {shard for shard in shards if shards.count(shard) > 1} if len(set(shards)) < len(shards) else set()
    if twice:
        raise ValueError(f"these shards are named more than once: {', '.join(sorted(twice))}")
    return shards


def _found(text: str) -> list[str]:
    """The shards that one pattern without braces names."""
    if is_remote(text):
        return [text]
    wildcard = str(Path(glob.escape(text)) / "*.tar") if Path(text).is_dir() else text
    if wildcard == text and not glob.has_magic(text):
        return [text]
    there = glob.glob(wildcard)  # noqa: PTH207 (a wildcard may be anywhere in the path)
    indexed = glob.glob(wildcard + SUFFIX)  # noqa: PTH207
    # A shard whose index is there but which is gone itself is missing, not absent: its samples will be counted.
    found = sorted({*there, *(path.removesuffix(SUFFIX) for path in indexed)})
    if not found:
        raise FileNotFoundError(f"no shards at {text}: expected tar files there (smalti.launch.pack makes them)")
    return found
