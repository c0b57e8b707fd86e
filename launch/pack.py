"""Packs images into tar shards: python -m smalti.launch.pack SOURCE DEST, or indexes shards that are there."""

import argparse
import sys
from functools import partial
from pathlib import Path

from ..trainer.prepare.find_images import find_samples
from ..trainer.prepare.pack import PackConfig, automatic_val_count, pack
from ..trainer.prepare.process_pool import spread
from ..trainer.shards.patterns import expand
from ..trainer.shards.scan import write_index_of


def main(arguments: list[str] | None = None) -> int:
    """The command; gives the exit status."""
    options = _parser().parse_args(arguments)
    if options.index:
        return _index(options.places, options)
    if len(options.places) != 2:
        _parser().error("give SOURCE and DEST, or --index and shards")
    source, destination = (Path(place) for place in options.places)
    try:
        gathered = find_samples(source, options.labels)
        val = options.val
        if val is None:
            val = automatic_val_count(gathered.sources, options.minimum_side)
            _say(f"held out for evaluation: {val} of {len(gathered.sources)} (auto: a tenth, at least 1)")
        config = PackConfig(
            shard_bytes=options.shard_size * 1_000_000,
            shard_samples=options.shard_count,
            val=val,
            minimum_side=options.minimum_side,
            processes=options.processes,
            prefix=options.prefix,
        )
        report = pack(gathered, destination, config, _say)
    except (OSError, ValueError) as error:
        _say(f"pack: {error}")
        return 1
    for left in report.skipped:
        _say(f"left out: {left.file}: {left.reason}")
    val = f", {report.val} held out" if report.val else ""
    print(f"{report.samples} samples{val} in {report.shards} shards, {len(report.skipped)} left out")
    return 0


def _index(patterns: list[str], options: argparse.Namespace) -> int:
    """Writes an index beside each shard; gives the exit status."""
    try:
        shards = [Path(shard) for shard in expand(patterns)]
    except (OSError, ValueError) as error:
        _say(f"pack: {error}")
        return 1
    samples, damaged = 0, 0
    work = partial(write_index_of, minimum_side=options.minimum_side)
    for _, indexed in spread(work, shards, options.processes):
        samples += indexed.samples
        for left in indexed.skipped:
            _say(f"left out: {left.file}: {left.key}: {left.reason}")
        if indexed.problem:
            damaged += 1
            _say(f"no index: {indexed.problem}")
    print(f"{samples} samples in {len(shards) - damaged} shards; {damaged} shards could not be indexed")
    return 2 if damaged else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _number_or_auto(text: str) -> int | None:
    """A number, or None for ``auto``."""
    return None if text == "auto" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m smalti.launch.pack", description=__doc__)
    parser.add_argument(
        "places",
        nargs="+",
        metavar="SOURCE DEST",
        help="SOURCE: a folder of images, searched recursively; a folder with images/ and maps/ or depth/ of equal "
        "names; or a text file that lists images. DEST: a folder for the shards; run again after a kill, it goes on",
    )
    parser.add_argument(
        "--index", action="store_true", help="write indexes beside existing shards instead: pack --index SHARDS..."
    )
    parser.add_argument(
        "--shard-size", type=int, default=500, metavar="MB", help="close a shard at this size (default 500; 0: never)"
    )
    parser.add_argument("--shard-count", type=int, default=0, metavar="N", help="close a shard at so many samples")
    parser.add_argument(
        "--val",
        type=_number_or_auto,
        default=0,
        metavar="N",
        help="keep N samples aside: DEST/train and DEST/val; 'auto' takes a tenth, at least 1",
    )
    parser.add_argument(
        "--minimum-side", type=int, default=1, metavar="PIXELS", help="leave out images with a shorter side"
    )
    parser.add_argument(
        "--labels", metavar="WHICH", help="'folders' (first folder's name), or a CSV or JSON file of files and classes"
    )
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="work so many at once (default: cores)")
    parser.add_argument("--prefix", default="shard", help="of the shards' names (default shard)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
