"""Find a palette of colors, the tokenizer of priors over pixels: ``smalti palette SHARDS DEST --size 32x32``.

The k-means of the pixels of small images, as in Chen et al. 2020: 512 colors, 9 bits a pixel. What it writes is a
tokenizer of factor 1 for ``encode``, ``train``, ``sample`` and ``evaluate``. Exit codes: 0 it is written, 2 something
is wrong with what was asked.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from ...trainer.exit_code import ExitCode
from .. import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _palette(asked))


def _palette(asked: argparse.Namespace) -> int:
    from ...models.vqgan.palette import PaletteConfig  # torch is slow to import
    from ...trainer.data.crops import CropConfig, TamingCropConfig
    from ...trainer.prepare.colors.palette import write_palette

    crop: CropConfig | TamingCropConfig = CropConfig(size=asked.size, scale=(math.inf, math.inf))
    if asked.resize is not None:
        crop = TamingCropConfig(size=asked.size, resize=asked.resize)
    config = PaletteConfig(codebook_size=asked.colors)
    write_palette(asked.shards, asked.destination, crop, config, asked.count, asked.seed, command.say)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("palette", __doc__, "smalti palette data/photos/train runs/palette --size 32x32")
    parser.add_argument("shards", nargs="+", help="folders of image shards, brace patterns or URLs")
    parser.add_argument("destination", type=Path, help="a new folder for the palette")
    parser.add_argument(
        "--size",
        type=command.side,
        default=32,
        metavar="HEIGHTxWIDTH",
        help="the largest square of each image, brought to this size with antialiasing (32x32)",
    )
    parser.add_argument(
        "--resize",
        type=command.count,
        metavar="N",
        help="as taming-transformers: the shortest side to N, bilinear, not antialiased, then a square of --size",
    )
    parser.add_argument("--colors", type=command.count, default=512, metavar="K", help="of the palette (512)")
    parser.add_argument(
        "--count", type=command.count, default=1000, metavar="N", help="images whose pixels count (1000)"
    )
    parser.add_argument("--seed", type=command.seed, default=0, metavar="N", help="of images and colors (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
