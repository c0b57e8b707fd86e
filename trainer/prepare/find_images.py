"""Which images a source holds, with the maps, depths and labels that belong to them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar

from ..shards.folder_walk import Skipped as Skipped
from ..shards.folder_walk import Walk, escaped, walk
from .labels import number_folders, read_labels, text_of
from .objects import Objects
from .source_file import SourceFile

File = TypeVar("File")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SUFFIXES = {
    "image": IMAGE_SUFFIXES,
    "segmentation": (".png", ".tif", ".tiff"),
    "depth": (".png", ".tif", ".tiff", ".npy"),
}
FOLDERS = {"image": "images", "segmentation": "maps", "depth": "depth"}  # of an aligned source


class RawSample(NamedTuple):
    """One sample before it is packed."""

    key: str
    files: Mapping[str, SourceFile]  # by field: "image", and "segmentation", "depth" where there are some
    label: int | None = None
    objects: Objects | None = None
    map_shift: int = 0  # added to each number of an 8-bit map, modulo 256


class SampleListing(NamedTuple):
    """What a source holds."""

    sources: list[RawSample]
    skipped: list[Skipped]
    classes: list[str]  # names of the labels, in order; empty where labels came as numbers or not at all


def find_samples(source: Path, labels: str | None = None, classes: Sequence[str] = ()) -> SampleListing:
    """The samples of a folder or a list.

    Args:
        source: a folder with ``images/`` and ``maps/`` or ``depth/`` of equal names; or any folder, searched
            recursively; or a text file that lists images, one path a line.
        labels: "folders" takes the name of the first folder below the source as the class; else a CSV (file, class)
            or JSON ({file: class}) of labels, by path below the source with or without suffix.
        classes: names of classes whose numbers are given, in their order; images of others are left out.

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
    return _labelled(found, skipped, labels, classes)


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
    return keyed((file.relative_to(folder), file) for file in walked.files)


def _listed(file: Path) -> list[RawSample]:
    """The images that a text file lists; paths are relative to the file."""
    lines = [line.strip() for line in text_of(file).splitlines()]
    names = [Path(line) for line in lines if line and not line.startswith("#")]
    return [RawSample(key, {"image": path}) for key, path in keyed((name, file.parent / name) for name in names)]


def keyed(files: Iterable[tuple[PurePath, File]]) -> list[tuple[str, File]]:
    """Keys of files from their names: without suffix, and without dots, which would end the key in a tar.

    Files that would share a key (``a.jpg`` beside ``a.png``) get their suffix into it, and a number where that is not
    enough (``a.b.jpg`` beside ``a_b.jpg``).
    """
    plain = [(_key((*name.parts[:-1], name.stem)), name, path) for name, path in files]
    often = Counter(key for key, _, _ in plain)
    longer = sorted((key if often[key] == 1 else _key(name.parts), name, path) for key, name, path in plain)
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


def _key(parts: Sequence[str]) -> str:
    """A key from the parts of a path; nothing in it leads out of a folder, ends a key early, or is no text."""
    kept = (escaped(part).replace(".", "_") for part in parts if part not in ("/", "..", "."))
    return "/".join(kept) or "unnamed"


def _labelled(found: list[RawSample], skipped: list[Skipped], labels: str, classes: Sequence[str]) -> SampleListing:
    """Samples with the number of their class; those without a class are left out."""
    if labels == "folders":
        of = {source.key: source.key.split("/")[0] for source in found if "/" in source.key}
        numbers, names = number_folders(sorted(set(of.values())), classes)
        labelled = {key: numbers[folder] for key, folder in of.items() if folder in numbers}
        reasons = {key: f"its folder {folder!r} is no class" for key, folder in of.items()}
    else:
        keys = {source.key for source in found}
        said = read_labels(Path(labels), lambda name: bool(keys & set(_label_keys(name))), classes)
        labelled, names, reasons = _by_key(found, said.numbers), said.classes, {}
        skipped = skipped + said.skipped
    kept = [source._replace(label=labelled[source.key]) for source in found if source.key in labelled]
    skipped = skipped + [
        Skipped(source.key, str(source.files["image"]), reasons.get(source.key, "has no label"))
        for source in found
        if source.key not in labelled
    ]
    return SampleListing(kept, skipped, names)


def _by_key(found: Sequence[RawSample], numbers: Mapping[str, int]) -> dict[str, int]:
    """The classes of samples by their keys, from those of files by their names, with or without suffix."""
    exact: dict[str, int] = {}
    plain: dict[str, set[int]] = {}
    for name, number in numbers.items():
        short, long = _label_keys(name)
        exact[long] = number
        plain.setdefault(short, set()).add(number)
    labelled = {}
    for source in found:
        long = f"{source.key}_{source.files['image'].suffix[1:]}"
        own: int | None = exact.get(long, exact.get(source.key))
        alike = plain.get(source.key, set())
        if own is None and len(alike) == 1:  # files that differ in their suffix alone may be of several classes
            (own,) = alike
        if own is not None:
            labelled[source.key] = own
    return labelled


def _label_keys(name: str) -> tuple[str, str]:
    """The keys of a file as ``keyed`` makes them: without its suffix, and with it where two would share one."""
    path = Path(name)
    return _key((*path.parts[:-1], path.stem)), _key(path.parts)
