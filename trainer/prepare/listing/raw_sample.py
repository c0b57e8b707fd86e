"""A sample before it is packed, and its key."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple, TypeVar

from ...shards.folder_walk import escaped
from ..objects import Objects
from ..source_file import SourceFile, stamp

File = TypeVar("File")


class RawSample(NamedTuple):
    """One sample before it is packed."""

    key: str
    files: Mapping[str, SourceFile]  # by field: "image", and "segmentation", "depth" where there are some
    label: int | None = None
    objects: Objects | None = None
    map_shift: int = 0  # added to each number of an 8-bit map, modulo 256


def keyed(files: Iterable[tuple[PurePath, File]]) -> list[tuple[str, File]]:
    """Keys of files from their names: without suffix, and without dots, which would end the key in a tar.

    Files that would share a key (``a.jpg`` beside ``a.png``) get their suffix into it, and a number where that is not
    enough (``a.b.jpg`` beside ``a_b.jpg``).
    """
    plain = [(key_of((*name.parts[:-1], name.stem)), name, path) for name, path in files]
    often = Counter(key for key, _, _ in plain)
    longer = sorted((key if often[key] == 1 else key_of(name.parts), name, path) for key, name, path in plain)
    taken = Counter(key for key, _, _ in longer)
    used: Counter[str] = Counter()
    named = []
    for key, _, path in longer:
        used[key] += 1
        number, unique = used[key], key
        while number > 1 and (unique := f"{key}-{number}") in taken:
            number += 1
        taken[unique] += 1
        named.append((unique, path))
    return sorted(named)


def key_of(parts: Sequence[str]) -> str:
    """A key from the parts of a path; nothing in it leads out of a folder, ends a key early, or is no text."""
    kept = (escaped(part).replace(".", "_") for part in parts if part not in ("/", "..", "."))
    return "/".join(kept) or "unnamed"


def plain_key(name: str) -> str:
    """The key of a file by its path below a folder, if no other file would share it.

    Without a Path, which would keep the words of every name for ever.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    last = parts.pop() if parts else ""
    dot = last.rfind(".")
    return key_of((*parts, last[:dot] if 0 < dot < len(last) - 1 else last or "."))


class Facts(NamedTuple):
    """What decides in which shard a sample goes, and whether that must be written again."""

    key: str
    label: int | None
    stamps: Mapping[str, tuple[int, int] | None]  # size and date of each file, by field
    more: str = ""


def facts_of(sample: RawSample) -> Facts:
    """The facts of a sample, for which its files are looked at."""
    more = "" if sample.objects is None else f" objects {sample.objects.digest}"
    more += f" shifted {sample.map_shift}" if sample.map_shift else ""
    return Facts(sample.key, sample.label, {field: stamp(file) for field, file in sample.files.items()}, more)
