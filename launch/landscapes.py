"""Paints landscapes and their maps, to train on without photos: python -m smalti.launch.landscapes DEST."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from ..trainer.landscapes import LandscapeSet


def main(arguments: list[str] | None = None) -> int:
    """The command; gives the exit status."""
    options = _parser().parse_args(arguments)
    height, width = options.size
    try:
        painted = LandscapeSet(options.count, height, width, options.seed, options.first, options.maps_only)
        names = painted.paint(options.destination)
        if sys.stderr.isatty():
            names = tqdm(names, total=options.count, unit="picture", dynamic_ncols=True)
        for number, name in enumerate(names, 1):
            if not sys.stderr.isatty():
                print(f"{name}: {number} of {options.count}", file=sys.stderr, flush=True)
    except (OSError, ValueError) as error:
        print(f"landscapes: {error}", file=sys.stderr)
        return 1
    print(f"{options.count} {'maps' if options.maps_only else 'landscapes'} in {options.destination}")
    return 0


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 1024x1280, got {text!r}")
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m smalti.launch.landscapes", description=__doc__)
    parser.add_argument("destination", type=Path, help="gets images/ and maps/; run again after a kill, it goes on")
    parser.add_argument("--count", type=int, default=24, metavar="N", help="pictures (default 24)")
    parser.add_argument(
        "--size", type=_size, default=(1024, 1280), metavar="HEIGHTxWIDTH", help="in pixels (default 1024x1280)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another set (default 0)")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first; past a set's end, its scenes are new"
    )
    parser.add_argument("--maps-only", action="store_true", help="leave the pictures out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
