"""Boxes of objects, of which a data set keeps those that are large enough, of images with neither too few nor too many.

As published for the scene models: classes in the order of their identifiers, attributes multiplied into them.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...shards.folder_walk import Skipped
from ..find_images import RawSample, SampleListing
from ..labels import text_of
from ..objects import Objects
from .parts import ObjectRules, samples
from .places import Listing

_ATTRIBUTES = {"none": 0, "group": 1, "all": 15}  # those that are kept, as in ``Box``
_LAST = "/m/01s55n"  # stands behind all others, as published


class Box(NamedTuple):
    """One object of an image."""

    identifier: str  # of its class
    left: float  # as shares of the image's sides
    top: float
    width: float
    height: float
    attributes: int  # 1 for a group, + 2 where it is occluded, + 4 depicted, + 8 inside


class Classes(NamedTuple):
    """The classes that are kept."""

    numbers: dict[str, int]  # by identifier
    names: list[str]  # in the order of their numbers
    merged: dict[str, str]  # identifiers that are taken as others


def classes_of(named: Mapping[str, str], rules: ObjectRules) -> Classes:
    """The classes that a user keeps.

    Args:
        named: their names by their identifiers.
        rules: say which.

    Raises:
        ValueError: a file names a class that is not there.
    """
    by_name = {name: identifier for identifier, name in named.items()}
    kept = set(named)
    if rules.keep_classes is not None:
        kept = {_identifier(line, by_name, named, rules.keep_classes) for line in _lines(rules.keep_classes)}
    merged = {}
    if rules.merge_classes is not None:
        for line in _lines(rules.merge_classes):
            pair = [part.strip() for part in line.split(",")]
            if len(pair) != 2:
                raise ValueError(f"{rules.merge_classes} must have lines of 'name,name', got {line!r}")
            first, second = (_identifier(name, by_name, named, rules.merge_classes) for name in pair)
            merged[first] = second
    identifiers = sorted(kept - merged.keys(), key=lambda identifier: (identifier == _LAST, identifier))
    if not identifiers:
        raise ValueError("no class is kept")
    return Classes(
        {identifier: number for number, identifier in enumerate(identifiers)},
        [named[identifier] for identifier in identifiers],
        merged,
    )


def with_boxes(
    images: Listing,
    boxes: Mapping[str, Sequence[Box]],
    sizes: Mapping[str, tuple[int, int]],
    classes: Classes,
    rules: ObjectRules,
    annotations: str,
) -> SampleListing:
    """Samples of the images whose objects are kept.

    Args:
        images: of the part.
        boxes: by the name of the image's file.
        sizes: of the images that they were drawn on, where that is known: height and width in pixels.
        classes: that are kept.
        rules: which boxes are kept.
        annotations: the file that they are from, for the report.
    """
    made, skipped = samples({name: file for name, file in images.files.items() if name in boxes})
    kept: list[RawSample] = []
    few = many = 0
    for name, sample in made.items():
        objects = [
            box for box in boxes[name] if _number(box, classes) is not None and box.width * box.height > rules.min_area
        ]
        if len(objects) < rules.min_objects:
            few += 1
        elif len(objects) > rules.max_objects:
            many += 1
        else:
            kept.append(sample._replace(objects=_objects(objects, classes, rules, sizes.get(name))))
    gone = boxes.keys() - images.files.keys()
    counts = (
        (len(images.files) - len(made), "image(s) without an annotation"),
        (len(gone), f"annotated image(s) are not there, such as {min(gone, default='')}"),
        (few, f"image(s) with fewer than {rules.min_objects} object(s) of a share above {rules.min_area}"),
        (many, f"image(s) with more than {rules.max_objects} of them"),
    )
    counted = [Skipped(".*", annotations, f"{count} {what}") for count, what in counts if count]
    return SampleListing(kept, [*images.skipped, *skipped, *counted], classes.names)


def _objects(boxes: Sequence[Box], classes: Classes, rules: ObjectRules, size: tuple[int, int] | None) -> Objects:
    kept = _ATTRIBUTES[rules.attributes]
    numbers = [(_number(box, classes) or 0) + len(classes.names) * (box.attributes & kept) for box in boxes]
    corners = [(box.left, box.top, box.left + box.width, box.top + box.height) for box in boxes]
    return Objects(np.array(numbers, np.int32), np.array(corners, np.float64).reshape(-1, 4), rules.max_objects, size)


def _number(box: Box, classes: Classes) -> int | None:
    return classes.numbers.get(classes.merged.get(box.identifier, box.identifier))


def _identifier(word: str, by_name: Mapping[str, str], named: Mapping[str, str], file: Path) -> str:
    if word in by_name:
        return by_name[word]
    if word not in named:
        raise ValueError(f"{file} names {word!r}, which is no class of this data set")
    return word


def _lines(file: Path) -> Iterable[str]:
    return [line.strip() for line in text_of(file).splitlines() if line.strip() and not line.startswith("#")]
