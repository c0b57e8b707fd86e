"""Which images a source holds, with the maps, depths and labels that belong to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..shards.folder_walk import Skipped as Skipped
from ..shards.folder_walk import Walk, escaped, walk
from .labels import number_folders, read_labels, text_of
from .listing.raw_sample import RawSample as RawSample
from .listing.raw_sample import key_of, keyed, plain_key
from .listing.sample_table import SampleTable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SUFFIXES = {
    "image": IMAGE_SUFFIXES,
    "segmentation": (".png", ".tif", ".tiff"),
    "depth": (".png", ".tif", ".tiff", ".npy"),
}
FOLDERS = {"image": "images", "segmentation": "maps", "depth": "depth"}  # of an aligned source


class SampleListing(NamedTuple):
    """What a source holds."""

    sources: Sequence[RawSample]
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
    found: Sequence[RawSample]
    if source.is_file():
        found = _listed(source)
    elif _is_aligned(source):
        found, skipped = _aligned(source)
    else:
        walked = walk(source, IMAGE_SUFFIXES)
        found, skipped = SampleTable(walked.files, source), walked.skipped
    if not found and not (skipped and _is_aligned(source)):
        some = f"; left out: {skipped[0].file}: {skipped[0].reason}" if skipped else ""
        raise FileNotFoundError(f"{source} holds no image; looked for {', '.join(IMAGE_SUFFIXES)} in all folders{some}")
    if labels is None:
        return SampleListing(found, skipped, [])
    if labels == "folders" and isinstance(found, SampleTable):
        return _by_folder(found, skipped, classes)
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


def _by_folder(found: SampleTable, skipped: list[Skipped], classes: Sequence[str]) -> SampleListing:
    """Samples of a folder with the number of their first folder; those whose folder is no class are left out."""
    names = {folder for folder, inside, _ in (found.key(n).partition("/") for n in range(len(found))) if inside}
    numbers, classes_of = number_folders(sorted(names), classes)
    labels = np.full(len(found), -1, np.int64)
    left = []
    for number in range(len(found)):
        folder, inside, _ = found.key(number).partition("/")
        if inside and folder in numbers:
            labels[number] = numbers[folder]
        else:
            reason = f"its folder {folder!r} is no class" if inside else "has no label"
            left.append(Skipped(found.key(number), str(found[number].files["image"]), reason))
    return SampleListing(found.labelled(labels), skipped + left, classes_of)


def _labelled(found: Sequence[RawSample], skipped: list[Skipped], labels: str, classes: Sequence[str]) -> SampleListing:
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
    return plain_key(name), key_of(path.parts)
