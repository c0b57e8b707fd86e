"""Which images a source holds, with the maps, depths and labels that belong to them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..keyed_random import text_key
from ..shards.folder_walk import Skipped as Skipped
from ..shards.folder_walk import Walk, escaped, walk
from .labels import label_keys, number_folders, read_labels, text_of
from .listing.raw_sample import RawSample as RawSample
from .listing.raw_sample import keyed
from .listing.sample_table import Hashes, SampleTable, found_in, hashes_of

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


def _aligned(source: Path) -> tuple[SampleTable, list[Skipped]]:
    """Samples whose image, map and depth have equal names in folders of their own."""
    fields = [field for field, folder in FOLDERS.items() if (source / folder).is_dir()]
    walks = {field: walk(source / FOLDERS[field], _SUFFIXES[field]) for field in fields}
    tables = {field: SampleTable(walks[field].files, source / FOLDERS[field]) for field in fields}
    incomplete: dict[str, dict[str, Path]] = defaultdict(dict)
    for field in fields:
        for key, file in tables[field].without(tables[other] for other in fields if other != field):
            incomplete[key][field] = file
    skipped: list[Skipped] = []
    for key, present in sorted(incomplete.items()):
        missing = [field for field in fields if field not in present]
        some_file = escaped(str(next(iter(present.values()))))
        reason = f"has no counterpart in {' and '.join(FOLDERS[field] for field in missing)}"
        hints = [f"; {FOLDERS[field]}/ has {other}" for field in missing for other in _others(walks[field])]
        skipped.append(Skipped(key, some_file, reason + "".join(hints)))
    image, *others = fields
    found = tables[image].beside({field: tables[field] for field in others})
    return found, skipped + [left for walked in walks.values() for left in walked.skipped]


def _others(walked: Walk) -> list[str]:
    """What a walk says of files of other suffixes."""
    return [left.reason for left in walked.skipped if left.key.startswith(".") and left.key != ".*"]


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
    reasons: dict[str, str] = {}
    if labels == "folders":
        of = {source.key: source.key.split("/")[0] for source in found if "/" in source.key}
        by_folder, names = number_folders(sorted(set(of.values())), classes)
        numbers = np.array([by_folder.get(of.get(source.key, ""), -1) for source in found], np.int64)
        reasons = {key: f"its folder {folder!r} is no class" for key, folder in of.items()}
    else:
        own = hashes_of(found)
        ordered = np.sort(own)
        said = read_labels(Path(labels), lambda name: _is_there(label_keys(name), ordered), classes)
        numbers, names = said.named.classes_of(own, _with_suffixes(found)), said.classes
        skipped = skipped + said.skipped
    unlabelled = (found[number] for number in np.flatnonzero(numbers < 0).tolist())
    skipped = skipped + [
        Skipped(source.key, str(source.files["image"]), reasons.get(source.key, "has no label"))
        for source in unlabelled
    ]
    if isinstance(found, SampleTable):
        return SampleListing(found.labelled(numbers), skipped, names)
    kept = [source._replace(label=int(number)) for source, number in zip(found, numbers, strict=True) if number >= 0]
    return SampleListing(kept, skipped, names)


def _with_suffixes(found: Sequence[RawSample]) -> Hashes:
    """(N,) the number of each sample's key as it would be where another file shared it."""
    longer = (text_key(f"{source.key}_{source.files['image'].suffix[1:]}") for source in found)
    return np.fromiter(longer, np.uint64, len(found))


def _is_there(keys: Sequence[int], ordered: Hashes) -> bool:
    return bool((found_in(ordered, np.array(keys, np.uint64)) >= 0).any())
