"""From a published data set, by its name, to shards for training and validation."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...files import check_own, write_own
from ...shards.reader import ShardSet
from ..find_images import SampleListing
from ..pack import PackConfig, PackReport, pack
from . import faces, imagenet, maps, scenes
from .parts import Asked, Parts

Reader = Callable[[Asked], Parts]
READERS: Mapping[str, Reader] = {
    "imagenet": imagenet.imagenet,
    "imagenet_depth": imagenet.imagenet_depth,
    "rin": imagenet.rin,
    "drin": imagenet.drin,
    "ade20k": maps.ade20k,
    "coco_stuff": maps.coco_stuff,
    "sflckr": maps.sflckr,
    "celebahq": faces.celebahq,
    "ffhq": faces.ffhq,
    "faceshq": faces.faceshq,
    "coco_boxes": scenes.coco_boxes,
    "open_images": scenes.open_images,
}
WITHOUT_SPLIT = ("sflckr", "celebahq", "ffhq", "faceshq")  # of which some images may be kept aside at random
FILE = "prepared.json"
_MARK = b'"prepared": "smalti"'
_WITH_DEPTH = ("imagenet_depth", "drin")


def prepare(
    name: str, asked: Asked, destination: Path, config: PackConfig, progress: Callable[[str], None]
) -> dict[str, PackReport]:
    """Pack a data set into ``train/`` and ``val/``, and say in ``prepared.json`` what it came to.

    Called again after a kill it goes on, as ``pack`` does. Equal samples have equal fingerprints in ``prepared.json``.

    Args:
        name: one of ``READERS``.
        asked: where its files are, and which of them are wanted.
        destination: a folder for the shards.
        config: of the shards; with ``val`` so many are kept aside at random in place of the publisher's split.
        progress: is called with what is done.

    Returns:
        the report of each part, by the name of its folder; of both together where they were parted at random.

    Raises:
        FileNotFoundError: a file of the data set is missing.
        ValueError: an archive, a list or annotations are damaged; or the destination holds something else.
    """
    if config.val and name not in WITHOUT_SPLIT:
        raise ValueError(f"{name} has a split of its own; --val is for {', '.join(WITHOUT_SPLIT)}")
    check_own(destination / FILE, _MARK)
    parts = READERS[name](asked)
    if name in _WITH_DEPTH:  # as published: float32 in the bits of RGBA, each map by its own range
        config = PackConfig(**{**asdict(config), "depth": "float_png"})
    reports: dict[str, PackReport] = {}
    for part, listing in parts.items():
        if not listing.sources:
            raise ValueError(f"no image of {part} can be used{_example(listing)}")
        objects = listing.sources[0].objects is not None
        packed = listing._replace(classes=[]) if objects else listing  # of objects, not of images
        folder = destination if config.val else destination / part
        reports["" if config.val else part] = pack(packed, folder, config, progress)
    said = {
        "prepared": "smalti",
        "name": name,
        "classes": next(iter(parts.values())).classes,
        "parts": {
            folder: _part(destination / folder) for folder in ("train", "val") if (destination / folder).is_dir()
        },
    }
    if any(listing.sources[0].objects is not None for listing in parts.values()):
        said["objects"] = {key: value for key, value in asdict(asked.objects).items() if not key.endswith("_classes")}
    write_own(destination / FILE, json.dumps(said, indent=1).encode() + b"\n", _MARK)
    return reports


def _part(folder: Path) -> dict[str, Any]:
    shards = ShardSet.open([str(folder)])
    return {"samples": shards.samples, "fingerprint": shards.fingerprint}


def _example(listing: SampleListing) -> str:
    return f"; for example {listing.skipped[0].file}: {listing.skipped[0].reason}" if listing.skipped else ""
