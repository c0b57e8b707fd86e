"""Write images beside their reconstructions: ``smalti reconstruct TOKENIZER SHARDS --out FOLDER``.

Safe to kill: run it again, on any number of ranks, it goes on.
Exit codes: 0 all is written, 1 too many samples were left out, 2 something is wrong with what was asked.
"""

import argparse
import sys
from collections.abc import Sequence

from .. import command
from . import running


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: running.run(asked, codes=False))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "reconstruct", __doc__, "smalti reconstruct runs/vqgan data/photos/val --size 256 --out reconstructed"
    )
    running.add_options(
        parser,
        "folders of shards of images, brace patterns or URLs",
        "folder of originals/ and reconstructions/",
        "none, of shared statistics, or faded into each other (crops: whole; whole images: blended)",
    )
    crops = parser.add_argument_group("the part of an image, its middle as in validation")
    crops.add_argument(
        "--size", type=command.side, default=0, metavar="HEIGHTxWIDTH", help="of a crop, square (whole images)"
    )
    crops.add_argument(
        "--scale",
        type=command.scale,
        nargs=2,
        default=(1.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="source pixels a pixel (1 1)",
    )
    crops.add_argument(
        "--resize", type=command.count, metavar="PIXELS", help="cut as taming-transformers: shortest side to this"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
