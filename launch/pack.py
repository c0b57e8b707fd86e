"""Pack images into tar shards: ``smalti pack SOURCE DEST``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ..trainer.exit_code import ExitCode
from ..trainer.prepare.check_image import DepthForm
from ..trainer.prepare.find_images import find_samples
from ..trainer.prepare.pack import PackConfig, PackReport, automatic_val_count, pack
from ..trainer.shards.reader import ShardSet
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    command.drop_output_that_fails()
    return command.ended(lambda: _pack(asked))


def _pack(asked: argparse.Namespace) -> int:
    classes = () if asked.classes is None else ShardSet.open([str(asked.classes)]).classes
    if asked.classes is not None and (not classes or asked.labels is None):
        raise ValueError(f"--classes {asked.classes} needs --labels, and shards whose classes have names")
    found = find_samples(asked.source, asked.labels, classes)
    val = asked.val
    if val is None:
        val = automatic_val_count(found.sources, asked.minimum_side, asked.depth)
        command.note(f"for validation: {val} of {len(found.sources)} (auto: a tenth, at least 1)")
    config = PackConfig(
        shard_bytes=asked.shard_size * 1_000_000,
        shard_samples=asked.shard_count,
        val=val,
        minimum_side=asked.minimum_side,
        side=asked.side,
        depth=asked.depth,
        processes=asked.processes,
        prefix=asked.prefix,
    )
    say_report(pack(found, asked.destination, config, command.note))
    return ExitCode.DONE


def say_report(report: PackReport, where: str = "") -> None:
    """What came of packing, and all that was left out.

    Args:
        where: what the last line begins with.
    """
    command.say_left_out(report.skipped)
    if report.whole_jpegs:
        command.note(
            f"{report.whole_jpegs} large JPEGs could not be rewritten: each crop of them decodes more than it shows"
        )
    if report.side:
        command.note(f"larger images were brought to a shortest side of {report.side} pixels: {report.reduced} have it")
    validation = f", {report.val} for validation" if report.val else ""
    command.say(
        f"{where}{report.samples} samples{validation} in {report.shards} shards, {len(report.skipped)} left out"
    )


def _number_or_auto(text: str) -> int | None:
    """A number, or None for ``auto``."""
    return None if text == "auto" else command.natural(text)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("pack", __doc__, "smalti pack photos data/photos --val auto --minimum-side 256")
    parser.add_argument(
        "source",
        type=Path,
        help="a folder of images, searched recursively; a folder with images/ and maps/ or depth/ of equal names; or a "
        "text file that lists images",
    )
    parser.add_argument("destination", type=Path, help="a folder for the shards; run again after a kill, it goes on")
    parser.add_argument(
        "--shard-size",
        type=command.natural,
        default=500,
        metavar="MB",
        help="close a shard at this size (default 500; 0: never)",
    )
    parser.add_argument(
        "--shard-count",
        type=command.natural,
        default=50_000,
        metavar="N",
        help="or at so many samples (50000; 0: never), as each is remembered until then",
    )
    parser.add_argument(
        "--val",
        type=_number_or_auto,
        default=0,
        metavar="N",
        help="keep N samples aside: DEST/train and DEST/val; 'auto' takes a tenth, at least 1",
    )
    command.add_image_options(parser)
    parser.add_argument(
        "--side",
        type=command.natural,
        default=0,
        metavar="PIXELS",
        help="bring larger images to this shortest side, with maps and depths (default 0: store them as they are)",
    )
    parser.add_argument(
        "--depth",
        choices=get_args(DepthForm),
        default="stored",
        help="depth maps as they are (default), each from 0 to 1 by its smallest and largest number, or so from RGBA "
        "PNGs of float32 bits, as taming-transformers takes them",
    )
    parser.add_argument(
        "--labels", metavar="WHICH", help="'folders' (first folder's name), or a CSV or JSON file of files and classes"
    )
    parser.add_argument(
        "--classes", type=Path, metavar="SHARDS", help="number the classes as these shards do, packed before"
    )
    parser.add_argument("--prefix", default="shard", help="of the shards' names (default shard)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
