"""Data sets of images with label maps: ADE20K, COCO-Stuff and S-FLCKR."""

from ..find_images import SampleListing
from .parts import Asked, Part, Parts, counted, listed, samples, with_labels
from .places import Listing, Place, find, found, list_files, read_text

_ADE = ("ADEChallengeData2016.zip", "ADEChallengeData2016")
_ADE_FOLDERS: dict[Part, str] = {"train": "training", "val": "validation"}
_STUFF_MAPS = ("stuffthingmaps_trainval2017", "cocostuffthings", "coco/cocostuffthings", "annotations")


def ade20k(asked: Asked) -> Parts:
    """The scene parsing benchmark of 2016: labels as they are, 0 for unknown and 150 more; the scene is the class."""
    text = read_text(
        asked.source,
        [
            ("sceneCategories.txt", ""),
            ("ADEChallengeData2016/sceneCategories.txt", ""),
            (_ADE[0], f"{_ADE[1]}/sceneCategories.txt"),
        ],
        "sceneCategories.txt",
    )
    scenes = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) > 1}
    classes = sorted(set(scenes.values()))
    parts: dict[Part, SampleListing | None] = {}
    for part, folder in _ADE_FOLDERS.items():
        images, maps = (_ade_place(asked, kind, folder) for kind in ("images", "annotations"))
        if images is None:
            continue
        if maps is None:
            raise FileNotFoundError(f"{asked.source} has {images} and no annotations/{folder} of it")
        listing = listed(asked, "ade20k", part, list_files(images))
        made, without = samples(listing.files, {"segmentation": (list_files(maps, (".png",)), str(maps))})
        names = {name: scenes.get(name.rpartition("/")[2].rpartition(".")[0], "") for name in made}
        labelled, unknown = with_labels(made, names, classes, "has no scene in sceneCategories.txt")
        parts[part] = SampleListing(labelled, [*listing.skipped, *without, *unknown], classes)
    return counted(parts, asked.source, (f"images/{folder}" for folder in _ADE_FOLDERS.values()))


def coco_stuff(asked: Asked) -> Parts:
    """COCO 2017 with the maps of things and stuff: labels + 1 modulo 256, so that 0 is unlabelled and there are 183."""
    parts: dict[Part, SampleListing | None] = {}
    for part in _ADE_FOLDERS:
        images = find(asked.source, coco_images(part))
        if images is None:
            continue
        year = f"{part}2017"
        candidates = [(f"{folder}/{year}", "") for folder in _STUFF_MAPS]
        maps = found(
            asked.source,
            [("stuffthingmaps_trainval2017.zip", year), *candidates],
            f"maps of stuff and things of {year}",
        )
        parts[part] = _mapped(asked, "coco", part, list_files(images), maps, shift=1)
    return counted(parts, asked.source, ("train2017", "train2017.zip", "val2017", "val2017.zip"))


def sflckr(asked: Asked) -> Parts:
    """A user's own collection with maps of COCO-Stuff's 182 labels as they are: ``images/`` and ``maps/``."""
    images = found(asked.source, [("images", ""), ("sflckr_images", "")], "images")
    maps = found(asked.source, [("maps", ""), ("sflckr_segmentations", "")], "maps")
    listing = list_files(images)
    if not asked.split:
        return {"train": _mapped(asked, "", "train", listing, maps, shift=0)}
    return {part: _mapped(asked, "sflckr", part, listing, maps, shift=0) for part in _ADE_FOLDERS}


def coco_images(part: Part) -> list[tuple[str, str]]:
    """Where COCO's images of a part may lie."""
    year = f"{part}2017"
    return [(year, ""), (f"images/{year}", ""), (f"coco/{year}", ""), (f"{year}.zip", year)]


def _mapped(asked: Asked, name: str, part: Part, images: Listing, maps: Place, shift: int) -> SampleListing:
    listing = listed(asked, name, part, images) if name else images
    made, without = samples(listing.files, {"segmentation": (list_files(maps, (".png",)), str(maps))})
    return SampleListing(
        [sample._replace(map_shift=shift) for sample in made.values()], [*listing.skipped, *without], []
    )


def _ade_place(asked: Asked, kind: str, folder: str) -> Place | None:
    below = f"{kind}/{folder}"
    return find(asked.source, [(below, ""), (f"{_ADE[1]}/{below}", ""), (_ADE[0], f"{_ADE[1]}/{below}")])
