"""ImageNet (ILSVRC 2012), the subset of Restricted ImageNet, and both with depth maps.

The class of an image is its synset; classes are numbered in the order of the synsets' names, which are kept.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from ...shards.folder_walk import Skipped, escaped
from ..find_images import SampleListing
from ..labels import text_of
from ..source_file import SourceFile
from .parts import Asked, Part, Parts, counted, listed, samples, with_labels
from .places import Listing, Place, find, found, list_files

# The ranges of classes are those of Restricted ImageNet (Santurkar et al. 2019). As published with the VQGAN, the last
# of each is not in it: 194 classes, not 203.
_RESTRICTED = ((30, 32), (33, 37), (151, 268), (281, 285), (80, 100), (365, 382), (389, 397), (118, 121), (300, 319))
_CLASSES = 1000
_DAMAGED = "n06596364_9591.JPEG"  # left out by the published code too
_KAGGLE = "imagenet-object-localization-challenge.zip"
_PLACES: Mapping[Part, tuple[tuple[str, str], ...]] = {
    "train": (
        ("ILSVRC2012_img_train.tar", ""),
        ("ILSVRC2012_train/data", ""),
        ("ILSVRC2012_train", ""),
        ("train", ""),
        ("ILSVRC/Data/CLS-LOC/train", ""),
        (_KAGGLE, "ILSVRC/Data/CLS-LOC/train"),
    ),
    "val": (
        ("ILSVRC2012_img_val.tar", ""),
        ("ILSVRC2012_validation/data", ""),
        ("ILSVRC2012_validation", ""),
        ("val", ""),
        ("ILSVRC/Data/CLS-LOC/val", ""),
        (_KAGGLE, "ILSVRC/Data/CLS-LOC/val"),
    ),
}
_DEPTHS = ("imagenet_depth", "depth")
_SYNSETS_OF_VAL = ("validation_synset.txt", "LOC_val_solution.csv")


def imagenet(asked: Asked) -> Parts:
    """All classes."""
    return _read(asked, restricted=False, depth=False)


def imagenet_depth(asked: Asked) -> Parts:
    """All classes, with a depth map for each image."""
    return _read(asked, restricted=False, depth=True)


def rin(asked: Asked) -> Parts:
    """The classes of Restricted ImageNet, numbered among themselves."""
    return _read(asked, restricted=True, depth=False)


def drin(asked: Asked) -> Parts:
    """Restricted ImageNet with depth maps."""
    return _read(asked, restricted=True, depth=True)


def _read(asked: Asked, restricted: bool, depth: bool) -> Parts:
    places = {part: find(asked.source, candidates) for part, candidates in _PLACES.items()}
    listings = {part: _by_synset(asked, part, place) for part, place in places.items() if place is not None}
    synsets = sorted({_synset(name) for listing in listings.values() for name in listing.files})
    if restricted:
        if len(synsets) != _CLASSES:
            raise ValueError(
                f"the classes of Restricted ImageNet are numbers among ImageNet's {_CLASSES} synsets, and "
                f"{asked.source} has images of {len(synsets)}"
            )
        synsets = sorted(synsets[number] for first, end in _RESTRICTED for number in range(first, end))
    parts: dict[Part, SampleListing | None] = {}
    for part, listing in listings.items():
        parts[part] = _part(asked, part, listing, synsets, depth)
    return counted(parts, asked.source, (name for candidates in _PLACES.values() for name, _ in candidates))


def _part(asked: Asked, part: Part, listing: Listing, synsets: list[str], depth: bool) -> SampleListing:
    kept = set(synsets)
    listing = listed(asked, "imagenet", part, listing)
    skipped = list(listing.skipped)
    files: dict[str, SourceFile] = {}
    others = 0
    for name, file in listing.files.items():
        if PurePosixPath(name).name == _DAMAGED:
            skipped.append(Skipped(escaped(name), escaped(str(file)), "is a file that the published code leaves out"))
        elif _synset(name) in kept:
            files[name] = file
        else:
            others += 1
    if others:
        skipped.append(Skipped(".*", str(asked.source), f"{others} image(s) of other classes"))
    aligned = {}
    if depth:
        where = found(asked.source, [(f"{folder}/{part}", "") for folder in _DEPTHS], f"depth maps of {part}")
        aligned["depth"] = (list_files(where, (".png",)), str(where))
    made, without = samples(files, aligned)
    labelled, unknown = with_labels(made, {name: _synset(name) for name in made}, synsets, "is in no synset's folder")
    return SampleListing(labelled, skipped + without + unknown, synsets)


def _by_synset(asked: Asked, part: Part, place: Place) -> Listing:
    """The images of a part as SYNSET/NAME; those of the validation lie in one folder, and a file has their synsets."""
    listing = list_files(place)
    flat = [name for name in listing.files if "/" not in name]
    if not flat or part == "train":
        skipped = [
            Skipped(escaped(name), escaped(str(listing.files[name])), "is in no synset's folder") for name in flat
        ]
        files = {name: file for name, file in listing.files.items() if "/" in name}
        return Listing(files, listing.skipped + skipped)
    synsets = _synsets_of_validation(asked)
    files = {}
    skipped = list(listing.skipped)
    for name, file in listing.files.items():
        if "/" in name:
            files[name] = file
        elif name.rpartition(".")[0] in synsets:
            files[f"{synsets[name.rpartition('.')[0]]}/{name}"] = file
        else:
            skipped.append(
                Skipped(escaped(name), escaped(str(file)), f"has no synset in {' or '.join(_SYNSETS_OF_VAL)}")
            )
    return Listing(files, skipped)


def _synsets_of_validation(asked: Asked) -> dict[str, str]:
    """The synset of each image's name without suffix: lines "NAME.JPEG SYNSET", or Kaggle's "NAME,SYNSET BOX"."""
    for folder in (asked.source, asked.lists, asked.source / "ILSVRC2012_validation", asked.source / "val"):
        for name in _SYNSETS_OF_VAL:
            if (folder / name).is_file():
                lines = text_of(folder / name).splitlines()
                words = [line.replace(",", " ").split() for line in lines]
                return {said[0].removesuffix(".JPEG"): said[1] for said in words if len(said) > 1}
    raise FileNotFoundError(
        f"the validation images lie in one folder, and {asked.source} has no {' or '.join(_SYNSETS_OF_VAL)}, which say "
        "their synsets; add one, or sort the images into folders of synsets"
    )


def _synset(name: str) -> str:
    return name.split("/")[0]
