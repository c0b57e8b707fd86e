"""What the readers of data sets share: the options, the parts that they give, lists of a split, aligned files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from ....models.bounds import Natural, Width, check_ranges
from ...shards.folder_walk import Skipped, escaped
from ..find_images import RawSample, SampleListing
from ..labels import text_of
from ..listing.raw_sample import keyed
from ..source_file import SourceFile
from .places import Listing

Part = Literal["train", "val"]
_LIST_ENDINGS: Mapping[Part, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation", "test")}


@dataclass(frozen=True)
class ObjectRules:
    """Which boxes and images are kept, as published: Jahn et al. 2021's scene models.

    Attributes:
        min_area: boxes must cover a larger share of their image than this.
        min_objects: images with fewer such boxes are left out.
        max_objects: images with more are, too; the places for objects in every sample.
        attributes: multiplied into the classes of C: "group" makes 2 C of them, "all" 16 C with occluded, depicted and
            inside, "none" leaves C.
        keep_classes: a file of the names of the classes that are kept, one a line; None keeps all.
        merge_classes: a file of "name,name": boxes of the first class are taken as ones of the second; None merges
            none.
    """

    min_area: float = 0.00001
    min_objects: Natural = 2
    max_objects: Width = 30
    attributes: Literal["none", "group", "all"] = "group"
    keep_classes: Path | None = None
    merge_classes: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 0 <= self.min_area < 1:
            raise ValueError(f"min_area is a share of an image in [0, 1), got {self.min_area}")
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects = {self.min_objects} is more than max_objects = {self.max_objects}")


class Asked(NamedTuple):
    """What a user says of a data set besides its name."""

    source: Path  # the folder of its files
    lists: Path  # the folder of lists that say which images belong to which part, such as ``celebahqtrain.txt``
    split: bool  # whether the parts are wanted; else all images together, of which some are kept aside at random
    objects: ObjectRules


Parts = dict[Part, SampleListing]


def split_list(asked: Asked, name: str, part: Part) -> Path | None:
    """The user's list of a part, where there is one: ``NAME_train.txt``, ``NAMEtrain.txt`` or ``train.txt``."""
    for ending in _LIST_ENDINGS[part]:
        for begin in (f"{name}_", name, ""):
            path = asked.lists / f"{begin}{ending}.txt"
            if path.is_file():
                return path
    return None


def listed(asked: Asked, name: str, part: Part, listing: Listing) -> Listing:
    """The files of a listing that the user's list of a part names; all of them where there is no list."""
    path = split_list(asked, name, part)
    return listing if path is None else _of_list(listing, path)


def _of_list(listing: Listing, path: Path) -> Listing:
    """The files of which a list has the name, by their path below the place, or else the last part of it."""
    wanted = [line.strip() for line in text_of(path).splitlines()]
    wanted = [line for line in dict.fromkeys(wanted) if line and not line.startswith("#")]
    by_last: dict[str, list[str]] = {}
    for file in listing.files:
        by_last.setdefault(PurePosixPath(file).name, []).append(file)
    chosen: dict[str, SourceFile] = {}
    skipped = list(listing.skipped)
    for line in wanted:
        alike = [line] if line in listing.files else by_last.get(PurePosixPath(line).name, [])
        if len(alike) == 1:
            chosen[alike[0]] = listing.files[alike[0]]
        else:
            reason = "is in the list, and several files have the name" if alike else "is in the list, and not there"
            skipped.append(Skipped(escaped(line), str(path), reason))
    if not chosen:
        raise ValueError(f"{path} names none of the {len(listing.files)} images; its first line is {wanted[:1]}")
    if unlisted := len(listing.files) - len(chosen):
        skipped.append(Skipped(".*", str(path), f"{unlisted} image(s) are not in the list"))
    return Listing(chosen, skipped)


def samples(
    files: Mapping[str, SourceFile], aligned: Mapping[str, tuple[Listing, str]] | None = None
) -> tuple[dict[str, RawSample], list[Skipped]]:
    """Samples by the names of their images' files, those without a counterpart in an aligned place left out.

    Args:
        files: the images.
        aligned: by field, the files that belong to them, of the same names but for the suffix, and where they lie.
    """
    others = {field: (_by_stem(listing.files), where) for field, (listing, where) in (aligned or {}).items()}
    made: dict[str, RawSample] = {}
    skipped: list[Skipped] = []
    for key, name in keyed((PurePosixPath(name), name) for name in files):
        members = {"image": files[name]}
        missing = []
        for field, (of, where) in others.items():
            if (file := of.get(_stem(name))) is None:
                missing.append(where)
            else:
                members[field] = file
        if missing:
            skipped.append(Skipped(key, escaped(str(files[name])), f"has no counterpart in {' and '.join(missing)}"))
        else:
            made[name] = RawSample(key, members)
    return made, skipped


def with_labels(
    made: Mapping[str, RawSample], names: Mapping[str, str], classes: Sequence[str], unknown: str
) -> tuple[list[RawSample], list[Skipped]]:
    """Samples with the numbers of their classes.

    Args:
        made: by the name of the image's file.
        names: of the class, by the name of the image's file.
        classes: in the order of their numbers.
        unknown: why an image without a class is left out.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    kept, skipped = [], []
    for file, sample in made.items():
        number = numbers.get(names.get(file, ""))
        if number is None:
            skipped.append(Skipped(sample.key, escaped(str(sample.files["image"])), unknown))
        else:
            kept.append(sample._replace(label=number))
    return kept, skipped


def counted(parts: Mapping[Part, SampleListing | None], source: Path, wanted: Iterable[str]) -> Parts:
    """The parts that are there.

    Raises:
        FileNotFoundError: none is.
    """
    there: Parts = {part: listing for part, listing in parts.items() if listing is not None}
    if not there:
        raise FileNotFoundError(f"{source} has none of {', '.join(wanted)}")
    return there


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _by_stem(files: Mapping[str, SourceFile]) -> dict[str, SourceFile]:
    return {_stem(name): file for name, file in files.items()}
