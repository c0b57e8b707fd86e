"""Which shards a list of patterns names: braces, wildcards, folders, URLs."""

import glob
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from .index import SUFFIX

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_REMOTE = re.compile(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_SECRETS = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)|(?<=\?)[^\s'\"]*(?:[Ss]ig|[Tt]oken|[Kk]ey|[Cc]redential)[^\s'\"]*")
_MOST = 10_000_000  # texts that one pattern may stand for


def is_remote(path: str) -> bool:
    """Whether a path is a URL or a ``pipe:`` and not a place in the local file system.

    To be asked of what a user wrote. Names that a folder was found to hold go through ``expand``, which writes those
    that look like a command or a URL with ``./`` before them.
    """
    return _REMOTE.match(path) is not None


def without_secrets(text: str) -> str:
    """A text for messages: the passwords and signatures of the URLs in it are left out."""
    return _SECRETS.sub("...", text)


def expand_braces(pattern: str) -> Iterator[str]:
    """The texts that a pattern like ``train-{000..127}.tar`` or ``{a,b}/x.tar`` stands for, in order.

    A range keeps the width of its first number. Braces without a range or a comma are left as they are.

    Raises:
        ValueError: the pattern stands for more texts than anybody has shards.
    """
    parts = _BRACES.split(pattern)
    choices = [[text] if place % 2 == 0 else _choices(text, pattern) for place, text in enumerate(parts)]
    if math.prod(len(texts) for texts in choices) > _MOST:
        raise ValueError(f"{pattern} stands for more than {_MOST} shards")
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _choices(inside: str, pattern: str) -> list[str]:
    """What the inside of a pair of braces stands for."""
    numbers = _RANGE.fullmatch(inside)
    if numbers:
        first, last = numbers.groups()
        if max(len(first), len(last)) > 18 or abs(int(first) - int(last)) > _MOST:
            raise ValueError(f"{pattern} stands for more than {_MOST} shards")
        step = 1 if int(first) <= int(last) else -1
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]
    return inside.split(",") if "," in inside else ["{" + inside + "}"]


def expand(patterns: Iterable[str]) -> list[str]:
    """The shards that the patterns name, in the order of the patterns; those of a wildcard or a folder by name.

    Raises:
        FileNotFoundError: a wildcard or a folder holds no tar.
        ValueError: nothing is named, or a shard is named twice.
    """
    texts = (text for pattern in patterns for text in ([pattern] if _exists(pattern) else expand_braces(pattern)))
    shards = [shard for text in texts for shard in _found(text)]
    if not shards:
        raise ValueError("no shards are named; give folders, files, wildcards or patterns like train-{000..127}.tar")
    if len(set(shards)) < len(shards):
        twice = sorted(without_secrets(shard) for shard, often in Counter(shards).items() if often > 1)
        raise ValueError(f"these shards are named more than once: {', '.join(twice)}")
    return shards


def _found(text: str) -> list[str]:
    """The shards that one pattern without braces names."""
    if is_remote(text):
        return [text]
    wildcard = _literal_start(text)
    if os.path.isdir(text):  # noqa: PTH112 (no error for a text that can be no path)
        wildcard = os.path.join(wildcard, "*.tar")  # noqa: PTH118 (a Path would drop a leading ./)
    if (_exists(text) and not Path(text).is_dir()) or not glob.has_magic(wildcard):
        return [text]
    there = glob.glob(wildcard)  # noqa: PTH207 (a wildcard may be anywhere in the path)
    indexed = glob.glob(wildcard + SUFFIX)  # noqa: PTH207
    # A shard whose index is there but which is gone itself is missing, not absent: its samples will be counted.
    found = sorted({*there, *(path.removesuffix(SUFFIX) for path in indexed)})
    if not found:
        raise FileNotFoundError(_nothing_at(text))
    return [_local(path) for path in found]


def _exists(text: str) -> bool:
    """Whether a text is literally the path of a folder, a shard or a shard's index."""
    return any(os.path.lexists(path) for path in (text, text + SUFFIX))


def _literal_start(text: str) -> str:
    """A wildcard whose leading folders are taken literally where they exist, brackets and all."""
    end = len(text)
    while end > 0 and not os.path.lexists(text[:end]):
        end = text.rfind("/", 0, end)
    return glob.escape(text[: max(end, 0)]) + text[max(end, 0) :]


def _local(path: str) -> str:
    """The path of a file that was found: its name is no command and no URL, whatever it looks like."""
    path = os.path.normpath(path)
    return f"./{path}" if is_remote(path) else path


def _nothing_at(text: str) -> str:
    below = sorted({str(tar.parent) for tar in Path(text).glob("*/*.tar")}) if Path(text).is_dir() else []
    if below:
        some = ", ".join(below[:5]) + (", ..." if len(below) > 5 else "")
        return f"no shards at {text}, but in folders below it; name the ones that are meant: {some}"
    return f"no shards at {text}: expected tar files there (smalti pack makes them)"
