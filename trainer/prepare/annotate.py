"""Maps and depths of images that have none, into a folder aligned with theirs: edges, labels, depth."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..distributed import ranks
from ..files import write_own, write_whole
from ..frozen_networks.depths import load_depth_network
from ..frozen_networks.segmenters import load_segmenter
from ..images.canny import canny, published_edges
from ..images.decode import LARGEST, Pixels, decode_image
from ..shards.folder_walk import Skipped, escaped
from .find_images import find_samples
from .source_file import read_file

Kind = Literal["edges", "segmentation", "depth"]
FILE = "annotations.json"
_MARK = b'"annotations": "smalti"'
_TRIED = 64  # pixels a side of the black image that a segmentation network is tried on
_OFTEN = 100  # images between two lines of progress


@dataclass(frozen=True)
class EdgesConfig:
    """Thresholds of edges, as ``cv2.Canny`` takes them.

    Attributes:
        low: gradients above it are edges where they hang together with a stronger one.
        high: gradients above it are edges.
        euclidean: measures gradients by the root of dx^2 + dy^2, else by their sum.
        published: edges are those of the published loader instead, which takes no thresholds.
    """

    low: float = 100.0
    high: float = 200.0
    euclidean: bool = False
    published: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1 << 20:
            raise ValueError(f"thresholds must be 0 <= low <= high, got low = {self.low} and high = {self.high}")


class Annotated(NamedTuple):
    """What came of annotating, on all ranks."""

    made: int
    there: int  # that were made before
    skipped: list[Skipped]


class _Way(NamedTuple):
    """How the file of an image is made."""

    suffix: str
    settings: Mapping[str, Any]  # all that decides the result
    file_of: Callable[[Pixels], bytes]  # of (H, W, 3) uint8


def annotate(
    kind: Kind, source: Path, destination: Path, how: EdgesConfig | Path, progress: Callable[[str], None]
) -> Annotated:
    """Write ``DEST/KEY.png`` (edges: 0 and 1; labels) or ``DEST/KEY.npy`` (float32 depth) of every image of a source.

    Keys are those that ``pack`` gives the images, so that ``images/`` and the destination, named ``maps/`` or
    ``depth/`` beside it, are an aligned source for it. Every rank must call this, and makes a share of the files. What
    is there is left alone, so that a killed job goes on.

    Args:
        kind: what is made.
        source: as ``find_images.find_samples`` takes it.
        destination: a folder for the files, which nobody else writes to meanwhile.
        how: the thresholds of edges, or the TorchScript file of a network.
        progress: is called with what is done.

    Raises:
        AgreedError: the source holds no image, the destination something else, or the network cannot be used; on
            every rank.
        ValueError: the network does not fit an image.
    """
    way = ranks.agreed(lambda: _way(kind, how))
    found = ranks.agreed(lambda: find_samples(source))
    ranks.agreed(lambda: _claim(destination, {"kind": kind, **way.settings}) if ranks.rank() == 0 else None)
    made = there = 0
    skipped: list[Skipped] = []
    for sample in found.sources[ranks.rank() :: ranks.world()]:
        path = destination / f"{sample.key}{way.suffix}"
        if path.exists():
            there += 1
            continue
        file = sample.files["image"]
        try:
            pixels = decode_image(read_file(file, LARGEST))
        except Exception as error:  # decoders raise whatever the damage leads them to
            skipped.append(Skipped(sample.key, escaped(str(file)), escaped(f"{type(error).__name__}: {error}")))
            continue
        write_whole(path, way.file_of(pixels))
        made += 1
        if made % _OFTEN == 0:
            progress(f"rank {ranks.rank()}: {made} made, {path}")
    everybody = ranks.all_gather_object((made, there, skipped))
    left = [*found.skipped, *(each for _, _, theirs in everybody for each in theirs)]
    return Annotated(sum(made for made, _, _ in everybody), sum(there for _, there, _ in everybody), left)


def _way(kind: Kind, how: EdgesConfig | Path) -> _Way:
    if isinstance(how, EdgesConfig):
        if how.published:
            return _Way(".png", {"published": True}, lambda pixels: _png(published_edges(pixels)))
        return _Way(".png", asdict(how), lambda pixels: _png(canny(pixels, how.low, how.high, how.euclidean)))
    if kind == "segmentation":
        segmenter = load_segmenter(how, _TRIED)
        wide = np.uint8 if segmenter.labels <= 1 << 8 else np.uint16
        return _Way(
            ".png",
            {"network": segmenter.digest},
            lambda pixels: _png(segmenter.find(_levels(pixels)[None])[0].cpu().numpy().astype(wide)),
        )
    depths = load_depth_network(how)
    return _Way(".npy", {"network": depths.digest}, lambda pixels: _npy(depths.find(_levels(pixels)).cpu().numpy()))


def _claim(destination: Path, settings: Mapping[str, Any]) -> None:
    """Says in the folder what its files are; refuses one that holds others."""
    said = json.dumps({"annotations": "smalti", **settings}, indent=1).encode() + b"\n"
    path = destination / FILE
    if not path.exists() and destination.exists() and any(destination.iterdir()):
        raise ValueError(f"{destination} holds files that are not by this command; name a new folder")
    if path.exists() and path.read_bytes() != said:
        raise ValueError(
            f"{path} says that the files beside it were made otherwise, or is not by this command; remove them, or "
            "name a new folder"
        )
    write_own(path, said, _MARK)


def _levels(pixels: Pixels) -> Tensor:
    """(3, H, W) uint8 on this rank's device."""
    return rearrange(torch.from_numpy(np.array(pixels)), "h w c -> c h w").to(ranks.device())


def _png(labels: Pixels) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8) if labels.dtype == bool else labels).save(packed, "PNG")
    return packed.getvalue()


def _npy(depth: Pixels) -> bytes:
    packed = io.BytesIO()
    np.save(packed, depth, allow_pickle=False)
    return packed.getvalue()
