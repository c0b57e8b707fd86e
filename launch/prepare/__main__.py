"""Pack a published data set: ``smalti prepare NAME SOURCE DEST``."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...trainer.exit_code import ExitCode
from ...trainer.prepare.datasets.parts import Asked, ObjectRules
from ...trainer.prepare.datasets.prepare import READERS, WITHOUT_SPLIT, prepare
from ...trainer.prepare.pack import PackConfig
from .. import command
from ..pack import say_report

_DEFAULTS: Mapping[str, dict[str, Any]] = {  # those of the published configs, where ``ObjectRules`` has others
    "open_images": {"min_area": 0.0001, "attributes": "all"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    command.drop_output_that_fails()
    return command.ended(lambda: _prepare(asked))


def _prepare(asked: argparse.Namespace) -> int:
    if not asked.source.is_dir():
        raise FileNotFoundError(f"there is no folder {asked.source}; name the one that has the data set's files")
    named = {word: getattr(asked, word) for word in ("min_area", "min_objects", "max_objects", "attributes")}
    rules = ObjectRules(
        **_DEFAULTS.get(asked.name, {}) | {word: value for word, value in named.items() if value is not None},
        keep_classes=asked.keep_classes,
        merge_classes=asked.merge_classes,
    )
    config = PackConfig(
        shard_bytes=asked.shard_size * 1_000_000,
        val=asked.val,
        minimum_side=asked.minimum_side,
        processes=asked.processes,
    )
    wanted = Asked(asked.source, asked.lists or asked.source, not asked.val, rules)
    for part, report in prepare(asked.name, wanted, asked.destination, config, command.note).items():
        say_report(report, f"{part}: " if part else "")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("prepare", __doc__, "smalti prepare ade20k downloads/ADEChallengeData2016 data/ade20k")
    parser.add_argument("name", choices=READERS, metavar="NAME", help=", ".join(READERS))
    parser.add_argument("source", type=Path, help="the folder of its files, as archives or unpacked")
    parser.add_argument(
        "destination", type=Path, help="a folder for train/ and val/; run again after a kill, it goes on"
    )
    parser.add_argument(
        "--lists",
        type=Path,
        metavar="FOLDER",
        help="of lists that say which images are for what, such as ffhqtrain.txt and ffhqvalidation.txt (SOURCE)",
    )
    parser.add_argument(
        "--val",
        type=command.natural,
        default=0,
        metavar="N",
        help=f"keep N images aside at random, in place of a split ({', '.join(WITHOUT_SPLIT)})",
    )
    parser.add_argument(
        "--shard-size", type=command.count, default=500, metavar="MB", help="close a shard at this size (default 500)"
    )
    command.add_image_options(parser)
    boxes = parser.add_argument_group("boxes of objects (coco_boxes, open_images)")
    boxes.add_argument(
        "--min-area", type=command.share, metavar="SHARE", help="of its image that a box must cover (as published)"
    )
    boxes.add_argument(
        "--min-objects", type=command.natural, metavar="N", help="leave out images with fewer such boxes (2)"
    )
    boxes.add_argument("--max-objects", type=command.count, metavar="N", help="leave out images with more (30)")
    boxes.add_argument(
        "--attributes",
        choices=("none", "group", "all"),
        help="that make classes of their own (coco_boxes: group; open_images: all)",
    )
    boxes.add_argument("--keep-classes", type=Path, metavar="FILE", help="names of the classes to keep, one a line")
    boxes.add_argument(
        "--merge-classes", type=Path, metavar="FILE", help="lines 'name,name': boxes of the first are of the second"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
