"""COCO and Open Images with the boxes of their objects."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from sys import intern
from typing import Any, TypeVar

from ...files import open_regular
from ..find_images import SampleListing
from .boxes import Box, classes_of, with_boxes
from .maps import coco_images
from .parts import Asked, Part, Parts, counted, listed
from .places import Listing, find, list_files, read_json, read_text

Read = TypeVar("Read")
_PARTS: tuple[Part, ...] = ("train", "val")
_NO_CLASS = "other"  # COCO's name for what is neither a thing nor stuff
_OPEN_IMAGES: Mapping[Part, tuple[str, str]] = {
    "train": ("train", "oidv6-train-annotations-bbox.csv"),
    "val": ("validation", "validation-annotations-bbox.csv"),
}
_NotUnderstood = (KeyError, TypeError, AttributeError, ZeroDivisionError, UnicodeDecodeError, csv.Error)
_FLAGS = ("IsGroupOf", "IsOccluded", "IsDepiction", "IsInside")


def coco_boxes(asked: Asked) -> Parts:
    """Things and stuff of COCO 2017: 171 classes, of which crowds are groups. Areas are those of the boxes."""
    parts: dict[Part, SampleListing | None] = {}
    for part in _PARTS:
        images = find(asked.source, coco_images(part))
        if images is None:
            continue
        things, stuff = (
            read_json(asked.source, _annotations(kind, part), f"annotations of {kind} of {part}")
            for kind in ("instances", "stuff")
        )
        name = f"instances_{part}2017.json"
        listing = list_files(images)
        parts[part] = _understood(name, partial(_coco_part, asked, part, listing, (things, stuff), name))
    return counted(parts, asked.source, ("train2017", "train2017.zip", "val2017", "val2017.zip"))


def open_images(asked: Asked) -> Parts:
    """Boxes of Open Images, with the attributes group, occluded, depicted and inside."""
    rows = csv.reader(
        io.StringIO(read_text(asked.source, [("class-descriptions-boxable.csv", "")], "names of classes"))
    )
    named = {row[0]: row[1] for row in rows if len(row) > 1 and row[0] != "LabelName"}
    parts: dict[Part, SampleListing | None] = {}
    for part, (folder, annotations) in _OPEN_IMAGES.items():
        images = find(asked.source, [(folder, ""), (f"{folder}.zip", folder), (f"{folder}.tar", folder)])
        if images is None:
            continue
        file = asked.source / annotations
        if not file.is_file():
            raise FileNotFoundError(f"{asked.source} has no boxes of {folder}; looked for {annotations}")
        listing = list_files(images)
        parts[part] = _understood(annotations, partial(_open_images_part, asked, part, listing, named, file))
    return counted(parts, asked.source, (folder for folder, _ in _OPEN_IMAGES.values()))


def _coco_part(
    asked: Asked, part: Part, images: Listing, annotated: Sequence[Mapping[str, Any]], name: str
) -> SampleListing:
    listing = listed(asked, "coco", part, images)
    named = {
        str(category["id"]): str(category["name"])
        for said in annotated
        for category in said["categories"]
        if category["name"] != _NO_CLASS
    }
    classes = classes_of(named, asked.objects)
    files: dict[int, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for image in annotated[0]["images"]:
        files[image["id"]] = image["file_name"]
        sizes[image["file_name"]] = (image["height"], image["width"])
    boxes: dict[str, list[Box]] = {}
    for said in annotated:
        for object_ in said["annotations"]:
            file = files[object_["image_id"]]
            height, width = sizes[file]
            left, top, across, down = object_["bbox"]
            boxes.setdefault(file, []).append(
                Box(
                    str(object_["category_id"]), left / width, top / height, across / width, down / height,
                    int(bool(object_["iscrowd"])),
                )
            )  # fmt: skip
    return with_boxes(listing, boxes, sizes, classes, asked.objects, name)


def _open_images_part(asked: Asked, part: Part, images: Listing, named: Mapping[str, str], file: Path) -> SampleListing:
    listing = listed(asked, "open_images", part, images)
    classes = classes_of(named, asked.objects)
    by_stem = {name.rpartition("/")[2].rpartition(".")[0]: name for name in listing.files}
    boxes: dict[str, list[Box]] = {}
    with os.fdopen(open_regular(file), encoding="utf-8", newline="") as lines:  # of 14 million
        for row in csv.DictReader(lines):
            left, top, right, bottom = (float(row[side]) for side in ("XMin", "YMin", "XMax", "YMax"))
            flags = sum(1 << bit for bit, flag in enumerate(_FLAGS) if row[flag] == "1")
            stem = row["ImageID"].rjust(16, "0")
            box = Box(intern(row["LabelName"]), left, top, right - left, bottom - top, flags)
            boxes.setdefault(by_stem.get(stem, f"{stem}.jpg"), []).append(box)
    return with_boxes(listing, boxes, {}, classes, asked.objects, file.name)


def _annotations(kind: str, part: Part) -> list[tuple[str, str]]:
    file = f"annotations/{kind}_{part}2017.json"
    archive = "annotations_trainval2017.zip" if kind == "instances" else "stuff_annotations_trainval2017.zip"
    return [(file, ""), (f"coco/{file}", ""), (archive, file)]


def _understood(name: str, read: Callable[[], Read]) -> Read:
    """What a function reads from annotations.

    Raises:
        ValueError: they are not of the publisher's form.
    """
    try:
        return read()
    except _NotUnderstood as error:
        raise ValueError(f"{name} is not of its publisher's form: {type(error).__name__}: {error}") from None
