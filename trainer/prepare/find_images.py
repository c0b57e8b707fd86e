"""Which images a source holds, with the maps, depths and labels that belong to them."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import read_regular
from ..shards.folder_walk import Skipped as Skipped
from ..shards.folder_walk import Walk, escaped, walk

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SUFFIXES = {
    "image": IMAGE_SUFFIXES,
    "segmentation": (".png", ".tif", ".tiff"),
    "depth": (".png", ".tif", ".tiff", ".npy"),
}
_HEADERS = ("file", "filename", "image", "key", "name", "path", "picture")  # first cell of a CSV's heading
_LARGEST = 1 << 30  # bytes of a list or a file of labels
FOLDERS = {"image": "images", "segmentation": "maps", "depth": "depth"}  # of an aligned source


class RawSample(NamedTuple):
    """One sample before it is packed."""

    key: str
    files: Mapping[str, Path]  # by field: "image", and "segmentation", "depth" where there are some
    label: int | None = None


class SampleListing(NamedTuple):
    """What a source holds."""

    sources: list[RawSample]
    skipped: list[Skipped]
    classes: list[str]  # names of the labels, in order; empty where labels came as numbers or not at all


def find_samples(source: Path, labels: str | None = None) -> SampleListing:
    """The samples of a folder or a list.

    Args:
        source: a folder with ``images/`` and ``maps/`` or ``depth/`` of equal names; or any folder, searched
            recursively; or a text file that lists images, one path a line.
        labels: "folders" takes the name of the first folder below the source as the class; else a CSV (file, class)
            or JSON ({file: class}) of labels, by path below the source with or without suffix.

    Raises:
        FileNotFoundError: there is no such source, or no image in it.
        ValueError: the labels cannot be read.
    """
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}")
    skipped: list[Skipped] = []
    if source.is_file():
        found = _listed(source)
    elif _is_aligned(source):
        found, skipped = _aligned(source)
    else:
        walked = walk(source, IMAGE_SUFFIXES)
        found = [RawSample(key, {"image": file}) for key, file in _named(source, walked)]
        skipped = walked.skipped
    if not found and not (skipped and _is_aligned(source)):
        some = f"; left out: {skipped[0].file}: {skipped[0].reason}" if skipped else ""
        raise FileNotFoundError(f"{source} holds no image; looked for {', '.join(IMAGE_SUFFIXES)} in all folders{some}")
    if labels is None:
        return SampleListing(found, skipped, [])
    return _labelled(found, skipped, labels)


def _is_aligned(source: Path) -> bool:
    others = [folder for field, folder in FOLDERS.items() if field != "image"]
    return (source / FOLDERS["image"]).is_dir() and any((source / other).is_dir() for other in others)


def _aligned(source: Path) -> tuple[list[RawSample], list[Skipped]]:
    """Samples whose image, map and depth have equal names in folders of their own."""
    fields = [field for field, folder in FOLDERS.items() if (source / folder).is_dir()]
    walks = {field: walk(source / FOLDERS[field], _SUFFIXES[field]) for field in fields}
    files = {field: dict(_named(source / FOLDERS[field], walked)) for field, walked in walks.items()}
    found: list[RawSample] = []
    skipped: list[Skipped] = []
    for key in sorted(set().union(*files.values())):
        missing = [field for field in fields if key not in files[field]]
        present = {field: files[field][key] for field in fields if key in files[field]}
        if missing:
            some_file = escaped(str(next(iter(present.values()))))
            reason = f"has no counterpart in {' and '.join(FOLDERS[field] for field in missing)}"
            hints = [f"; {FOLDERS[field]}/ has {other}" for field in missing for other in _others(walks[field])]
            skipped.append(Skipped(key, some_file, reason + "".join(hints)))
        else:
            found.append(RawSample(key, present))
    return found, skipped + [left for walked in walks.values() for left in walked.skipped]


def _others(walked: Walk) -> list[str]:
    """What a walk says of files of other suffixes."""
    return [left.reason for left in walked.skipped if left.key.startswith(".") and left.key != ".*"]


def _named(folder: Path, walked: Walk) -> list[tuple[str, Path]]:
    """The files that were found below a folder with their keys, sorted by key."""
    return _keyed((file.relative_to(folder), file) for file in walked.files)


def _listed(file: Path) -> list[RawSample]:
    """The images that a text file lists; paths are relative to the file."""
    lines = [line.strip() for line in _text_of(file).splitlines()]
    names = [Path(line) for line in lines if line and not line.startswith("#")]
    return [RawSample(key, {"image": path}) for key, path in _keyed((name, file.parent / name) for name in names)]


def _keyed(files: Iterable[tuple[Path, Path]]) -> list[tuple[str, Path]]:
    """Keys of files from their names: without suffix, and without dots, which would end the key in a tar.

    Files that would share a key (``a.jpg`` beside ``a.png``) get their suffix into it, and a number where that is not
    enough (``a.b.jpg`` beside ``a_b.jpg``).
    """
    plain = [(_key((*name.parts[:-1], name.stem)), name, path) for name, path in files]
    often = Counter(key for key, _, _ in plain)
    longer = sorted((key if often[key] == 1 else _key(name.parts), name, path) for key, name, path in plain)
    taken = Counter(key for key, _, _ in longer)
    used: Counter[str] = Counter()
    keyed = []
    for key, _, path in longer:
        used[key] += 1
        number, unique = used[key], key
        while number > 1 and (unique := f"{key}-{number}") in taken:
            number += 1
        taken[unique] += 1
        keyed.append((unique, path))
    return sorted(keyed)


def _key(parts: Sequence[str]) -> str:
    """A key from the parts of a path; nothing in it leads out of a folder, ends a key early, or is no text."""
    kept = (escaped(part).replace(".", "_") for part in parts if part not in ("/", "..", "."))
    return "/".join(kept) or "unnamed"


def _labelled(found: list[RawSample], skipped: list[Skipped], labels: str) -> SampleListing:
    """Samples with the number of their class; those without a class are left out."""
    if labels == "folders":
        named = {source.key: source.key.split("/")[0] for source in found if "/" in source.key}
    else:
        named = {
            _key((*Path(name).parts[:-1], Path(name).stem)): label for name, label in _label_file(Path(labels)).items()
        }
    texts = sorted({label for label in named.values()})
    numbers = all(text.isdecimal() for text in texts) and labels != "folders"
    classes = [] if numbers else texts
    places = {text: int(text) if numbers else place for place, text in enumerate(texts)}
    kept = [source._replace(label=places[named[source.key]]) for source in found if source.key in named]
    left = [source for source in found if source.key not in named]
    skipped = skipped + [Skipped(source.key, str(source.files["image"]), "has no label") for source in left]
    return SampleListing(kept, skipped, classes)


def _label_file(file: Path) -> dict[str, str]:
    """File names and classes, from JSON or CSV."""
    if not file.exists():
        raise FileNotFoundError(f"there is no file of labels {file}; labels is 'folders' or a CSV or JSON file")
    if file.suffix.lower() == ".json":
        try:
            said = json.loads(_text_of(file))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{file} is no JSON: {error}") from None
        if not isinstance(said, dict):
            raise ValueError(f"{file} must hold one object, {{file: class, ...}}")
        return {str(name): str(label) for name, label in said.items()}
    try:
        rows = [row for row in csv.reader(_text_of(file).splitlines()) if row]
    except csv.Error as error:
        raise ValueError(f"{file} is no CSV: {error}") from None
    if any(len(row) < 2 for row in rows):
        raise ValueError(f"{file} must have two columns, file and class, in every line")
    if rows and rows[0][0].strip().lower() in _HEADERS:
        rows = rows[1:]
    return {row[0]: row[1].strip() for row in rows}


def _text_of(file: Path) -> str:
    """The text of a list or a file of labels; bytes that are not UTF-8 stay, as in names of files.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text.
    """
    data = read_regular(file, _LARGEST)
    if b"\0" in data:
        raise ValueError(f"{file} is not UTF-8 text (UTF-16?); save it as UTF-8")
    return os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))
