"""Write an index beside each shard, and one of all shards of a folder: ``smalti index SHARDS``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..trainer.exit_code import ExitCode
from ..trainer.prepare.pack_codes import pack_codes
from ..trainer.prepare.process_pool import spread
from ..trainer.shards import set_index
from ..trainer.shards.patterns import expand
from ..trainer.shards.reader import ShardSet
from ..trainer.shards.scan import rewrite_index_of, write_index_of
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    command.drop_output_that_fails()
    return command.ended(lambda: _index(asked))


def _index(asked: argparse.Namespace) -> int:
    if asked.packed is not None:
        made = pack_codes(ShardSet.open(asked.shards), asked.packed, asked.processes, command.note)
        if made.as_files:
            command.note(f"{made.as_files} shards keep a file for each grid: their samples differ in shape or fields")
        command.say(f"{made.samples} samples in {made.shards} shards in {asked.packed}")
        return ExitCode.DONE
    shards = [Path(shard) for shard in expand(asked.shards)]
    samples, damaged = 0, 0
    folders = sorted({shard.parent for shard in shards})
    for folder in folders:  # nothing is said of shards whose indexes change
        set_index.remove(folder)
    work = rewrite_index_of if asked.keep else partial(write_index_of, minimum_side=asked.minimum_side)
    for _, indexed in spread(work, shards, asked.processes):
        samples += indexed.samples
        for left in indexed.skipped:
            command.note(f"left out: {left.file}: {left.key}: {left.reason}")
        if indexed.note:
            command.note(f"note: {indexed.note}")
        if indexed.problem:
            damaged += 1
            command.note(f"no index: {indexed.problem}")
    for folder in filter(Path.is_dir, folders):
        set_index.write(folder)
    command.say(f"{samples} samples in {len(shards) - damaged} shards; {damaged} shards could not be indexed")
    return ExitCode.WRONG if damaged else ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("index", __doc__, "smalti index data/train")
    parser.add_argument("shards", nargs="+", help="folders of shards, tar files or brace patterns")
    command.add_image_options(parser)
    parser.add_argument(
        "--keep",
        action="store_true",
        help="where an index is there and fits its tar, write it in the present format and do not read the tar",
    )
    parser.add_argument(
        "--packed",
        type=Path,
        metavar="FOLDER",
        help="write code shards of a file each grid anew into this folder, as arrays, with their indexes; runs that "
        "read the old ones go on with the new ones",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
