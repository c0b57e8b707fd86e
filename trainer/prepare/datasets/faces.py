"""CelebA-HQ, FFHQ, and both together, of which the class says from which a face is."""

from pathlib import PurePosixPath

from ...shards.folder_walk import Skipped
from ..find_images import IMAGE_SUFFIXES, RawSample, SampleListing
from .parts import Asked, Part, Parts, listed, samples, split_list
from .places import Listing, found, list_files

_TRAINING_OF_FFHQ = 60_000  # images, the others being for validation, as its publishers say
_PARTS: tuple[Part, ...] = ("train", "val")


def celebahq(asked: Asked) -> Parts:
    """Images as ``.npy`` (as its authors' program writes them) or in an image format; has no split of its own."""
    listing = _celebahq(asked)
    return {part: _listing(listing[part]) for part in listing}


def ffhq(asked: Asked) -> Parts:
    """``images1024x1024`` with or without folders of a thousand; without lists 60 000 are for training."""
    listing = _ffhq(asked)
    return {part: _listing(listing[part]) for part in listing}


def faceshq(asked: Asked) -> Parts:
    """``celebahq/`` (class 0) and ``ffhq/`` (class 1)."""
    both = {"celebahq": _celebahq(asked), "ffhq": _ffhq(asked)}
    parts: Parts = {}
    for part in _PARTS if asked.split else _PARTS[:1]:
        kept: list[RawSample] = []
        skipped: list[Skipped] = []
        for number, (name, listing) in enumerate(both.items()):
            made, without = samples(listing[part].files)
            kept += [sample._replace(key=f"{name}/{sample.key}", label=number) for sample in made.values()]
            skipped += listing[part].skipped + without
        parts[part] = SampleListing(kept, skipped, list(both))
    return parts


def _listing(listing: Listing) -> SampleListing:
    made, without = samples(listing.files)
    return SampleListing(list(made.values()), listing.skipped + without, [])


def _celebahq(asked: Asked) -> dict[Part, Listing]:
    place = found(asked.source, [("celebahq", ""), ("celebahq.zip", ""), ("CelebA-HQ-img", ""), (".", "")], "CelebA-HQ")
    listing = list_files(place, (*IMAGE_SUFFIXES, ".npy"))
    if not asked.split:
        return {"train": listing}
    for part in _PARTS:
        if split_list(asked, "celebahq", part) is None:
            raise FileNotFoundError(
                f"CelebA-HQ has no split of its own, and {asked.lists} has no celebahq{part}.txt; name the folder of "
                "such lists with --lists, or keep some images aside with --val"
            )
    return {part: listed(asked, "celebahq", part, listing) for part in _PARTS}


def _ffhq(asked: Asked) -> dict[Part, Listing]:
    candidates = [("ffhq", ""), ("images1024x1024", ""), ("images1024x1024.zip", ""), (".", "")]
    listing = list_files(found(asked.source, candidates, "FFHQ"))
    if not asked.split:
        return {"train": listing}
    if split_list(asked, "ffhq", "train") is not None:
        return {part: listed(asked, "ffhq", part, listing) for part in _PARTS}
    split: dict[Part, Listing] = {"train": Listing({}, listing.skipped), "val": Listing({}, [])}
    for name, file in listing.files.items():
        stem = PurePosixPath(name).stem
        if not stem.isdecimal():
            listing.skipped.append(Skipped(name, str(file), "has no number that says to which part it belongs"))
        else:
            split["train" if int(stem) < _TRAINING_OF_FFHQ else "val"].files[name] = file
    return split
