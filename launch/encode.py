"""Encode image shards into code shards: ``deepspeed --module smalti.launch.encode TOKENIZER SHARDS DEST``.

Whole images, in tiles, or with ``--size`` crops as training draws them. Safe to kill: run it again, on any number of
ranks. Exit codes: 0 all is encoded, 1 too many images were left out, 2 something is wrong with what was asked.
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
    command.drop_output_that_fails()
    return command.ended(lambda: _encode(asked))


def _encode(asked: argparse.Namespace) -> int:
    from ..trainer.checkpoint.loading import load_tokenizer  # torch is slow to import
    from ..trainer.data.crops import CropConfig, TamingCropConfig
    from ..trainer.distributed import ranks
    from ..trainer.prepare.encode import EncodeConfig, EncodeJob, encode
    from ..trainer.shards.reader import ShardSet

    crop: CropConfig | TamingCropConfig | None = None
    if asked.size and asked.resize is not None:
        crop = TamingCropConfig(
            size=asked.size, resize=asked.resize, flip=asked.flip, interpolation=asked.interpolation
        )
    elif asked.size:
        crop = CropConfig(size=asked.size, scale=tuple(asked.scale), position=asked.position, flip=asked.flip)
    config = EncodeConfig(
        crop=crop,
        crops=asked.crops,
        seed=asked.seed,
        tile=asked.tile,
        halo=asked.halo,
        low_res=asked.low_res,
        batch=asked.batch,
        precision=asked.precision,
        num_workers=asked.num_workers,
        max_bad_fraction=asked.max_bad_fraction,
    )
    named = (("segmentation", asked.segmentation_tokenizer), ("depth", asked.depth_tokenizer))
    with ranks.process_group(TIMEOUT_S):
        tokenizer = load_tokenizer(asked.tokenizer, ranks.device())
        others = {field: load_tokenizer(path, ranks.device()) for field, path in named if path is not None}
        work = EncodeJob(ShardSet.open(asked.shards), asked.destination, tokenizer, others, config)
        report = encode(work, command.say)
        if ranks.rank() == 0:
            command.say(f"{report.samples} grids in {report.shards} shards, {len(report.skipped)} images left out")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "encode",
        __doc__,
        "smalti encode runs/vqgan data/photos/train data/photos/codes/train --tile 16",
    )
    parser.add_argument("tokenizer", type=Path, help="folder of the VQGAN's run, or of its export")
    parser.add_argument("shards", nargs="+", help="folders of image shards, brace patterns or URLs")
    parser.add_argument("destination", type=Path, help="a folder for the code shards; run again, it goes on")
    whole = parser.add_argument_group("whole images (without --size)")
    command.add_tile_options(whole)
    crops = parser.add_argument_group("crops, those that training draws in its first epoch with the same numbers")
    crops.add_argument(
        "--size", type=command.side, default=0, metavar="HEIGHTxWIDTH", help="of a crop, square (whole images)"
    )
    crops.add_argument("--crops", type=command.count, default=1, metavar="K", help="crops of each image (1)")
    crops.add_argument(
        "--scale",
        type=command.scale,
        nargs=2,
        default=(1.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="source pixels a pixel (1 1)",
    )
    crops.add_argument(
        "--position", choices=("clamp", "uniform"), default="clamp", help="how the place of a crop is drawn (clamp)"
    )
    crops.add_argument("--flip", type=command.share, default=0.5, metavar="P", help="share of mirrored crops (0.5)")
    crops.add_argument(
        "--resize", type=command.count, metavar="PIXELS", help="cut as taming-transformers: shortest side to this"
    )
    crops.add_argument(
        "--interpolation", choices=("bilinear", "bicubic"), default="bilinear", help="with --resize (bilinear)"
    )
    crops.add_argument("--seed", type=command.seed, default=0, metavar="N", help="the run's (0)")
    parser.add_argument(
        "--batch",
        type=command.count,
        default=16,
        metavar="N",
        help="crops, or tiles of whole images of one size, that the network sees at once (16)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the networks; bf16 is faster on GPUs, gives a few other codes, and the shards say so (fp32)",
    )
    parser.add_argument(
        "--segmentation-tokenizer", type=Path, metavar="FOLDER", help="a VQGAN of maps, for codes of the maps"
    )
    parser.add_argument("--depth-tokenizer", type=Path, metavar="FOLDER", help="a VQGAN of depths, for theirs")
    parser.add_argument(
        "--low-res", type=command.natural, default=0, metavar="P", help="keep a small image too, of P pixels a code"
    )
    parser.add_argument(
        "--num-workers",
        type=command.processes,
        default=0,
        metavar="N",
        help="processes a rank that read and decode (0)",
    )
    parser.add_argument(
        "--max-bad-fraction",
        type=command.share,
        default=0.01,
        metavar="SHARE",
        help="share of images that may be left out (0.01)",
    )
    command.add_local_rank(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
