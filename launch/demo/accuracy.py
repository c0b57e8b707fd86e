"""Counts how much of images is what their label maps say: ``... demo.accuracy SEGMENTER MAPS IMAGES``.

A segmenter (``demo.segmenter``) names every pixel of each image of a folder; the share of pixels that it names as the
map does is printed for each image and for all. An image belongs to the map whose name it has, or begins with; a map of
another size is stretched to the image's, by the nearest pixels, as it is for sampling.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.metrics.confusion import confusion, pixel_accuracy
from ...trainer.exit_code import ExitCode
from ...trainer.files import read_regular
from ...trainer.frozen_networks.segmenters import load_segmenter
from ...trainer.images.decode import Pixels, decode_image, decode_map
from .. import command

SIDE = 256  # of the image on which a segmenter is tried
MOST_BYTES = 1 << 28


def main(arguments: list[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _count(asked))


def _count(asked: argparse.Namespace) -> int:
    segmenter = load_segmenter(asked.segmenter, SIDE)
    maps = {path.stem: path for path in asked.maps.iterdir() if path.suffix == ".png"}
    counts: list[Tensor] = []
    for path in sorted(asked.images.glob("*.png")):
        labels, pixels = _decoded(maps[_map_of(path, maps)], decode_map), _decoded(path, decode_image)
        real = F.interpolate(labels[None, None].float(), pixels.shape[:2], mode="nearest-exact")[0].long()
        found = segmenter.find(pixels.permute(2, 0, 1)[None])
        counts.append(confusion(real, found, segmenter.labels))
    if not counts:
        raise ValueError(f"{asked.images} holds no PNGs")
    share = pixel_accuracy(torch.stack(counts).sum(0))
    shares = ", ".join(f"{pixel_accuracy(each):.1%}" for each in counts)
    command.say(f"{asked.images}: {share:.1%} of the pixels are what the maps say ({shares})")
    return ExitCode.DONE


def _decoded(path: Path, decode: Callable[[bytes], Pixels]) -> Tensor:
    try:
        return torch.from_numpy(np.array(decode(read_regular(path, MOST_BYTES))))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def _map_of(image: Path, maps: dict[str, Path]) -> str:
    """The name of an image's map.

    Raises:
        ValueError: there is none.
    """
    beginnings = [name for name in maps if image.stem == name or image.stem.startswith(f"{name}-")]
    if not beginnings:
        raise ValueError(f"{image} has no map whose name it begins with")
    return max(beginnings, key=len)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "demo.accuracy",
        __doc__,
        "python -m smalti.launch.demo.accuracy runs/demo/segmenter.pt runs/demo/unseen/maps runs/demo/samples",
    )
    parser.add_argument("segmenter", type=Path, help="TorchScript of demo.segmenter")
    parser.add_argument("maps", type=Path, help="folder of label maps, PNG")
    parser.add_argument("images", type=Path, help="folder of images, PNG")
    return parser


if __name__ == "__main__":
    sys.exit(main())
