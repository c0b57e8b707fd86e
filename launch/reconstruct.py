"""Write images beside their reconstructions: ``smalti reconstruct TOKENIZER SHARDS --out FOLDER``.

Of code shards, the images that the codes stand for. Safe to kill: run it again, on any number of ranks, it goes on.
Exit codes: 0 all is written, 1 too many samples were left out, 2 something is wrong with what was asked.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.exit_code import ExitCode
from . import command

TIMEOUT_S = 7200.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _reconstruct(asked))


def _reconstruct(asked: argparse.Namespace) -> int:
    from ..models.vqgan.tiling import Manner  # torch is slow to import
    from ..trainer.checkpoint.loading import load_tokenizer
    from ..trainer.data.crops import CropConfig, TamingCropConfig
    from ..trainer.distributed import ranks
    from ..trainer.sampling.image_files import DecodeConfig
    from ..trainer.sampling.reconstruct import ReconstructConfig, reconstruct_set
    from ..trainer.shards.reader import ShardSet

    crop: CropConfig | TamingCropConfig | None = None
    if asked.size and asked.resize is not None:
        crop = TamingCropConfig(size=asked.size, resize=asked.resize, flip=0.0)
    elif asked.size:
        crop = CropConfig(size=asked.size, scale=tuple(asked.scale), flip=0.0)
    manner: Manner = asked.decode or ("blended" if crop is None else "whole")
    config = ReconstructConfig(crop, DecodeConfig(manner, asked.tile, asked.halo), asked.batch)
    with ranks.process_group(TIMEOUT_S):
        tokenizer = load_tokenizer(asked.tokenizer, ranks.device())
        report = reconstruct_set(ShardSet.open(asked.shards), tokenizer, asked.out, config, command.say)
        if ranks.rank() == 0:
            command.say(f"{len(report.images)} images, {len(report.left_out)} samples left out")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "reconstruct", __doc__, "smalti reconstruct runs/vqgan data/photos/val --size 256 --out reconstructed"
    )
    parser.add_argument("tokenizer", type=Path, help="folder of the VQGAN's run, or of its export")
    parser.add_argument("shards", nargs="+", help="folders of shards of images or codes, brace patterns or URLs")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder of originals/ and reconstructions/"
    )
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="images that the network sees at once (16)")
    crops = parser.add_argument_group("the part of an image, its middle as in validation")
    crops.add_argument(
        "--size", type=command.side, default=0, metavar="HEIGHTxWIDTH", help="of a crop, square (whole images)"
    )
    crops.add_argument(
        "--scale", type=float, nargs=2, default=(1.0, 1.0), metavar=("LOW", "HIGH"), help="source pixels a pixel (1 1)"
    )
    crops.add_argument("--resize", type=int, metavar="PIXELS", help="cut as taming-transformers: shortest side to this")
    tiles = parser.add_argument_group("tiles, in which images are encoded and decoded")
    tiles.add_argument(
        "--decode",
        choices=("whole", "shared", "blended"),
        help="none, of shared statistics, or faded into each other (crops: whole; whole images: blended)",
    )
    tiles.add_argument("--tile", type=int, default=16, metavar="CODES", help="codes a side that are seen at once (16)")
    tiles.add_argument("--halo", type=int, default=2, metavar="CODES", help="codes at a tile's border (2)")
    command.add_local_rank(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
