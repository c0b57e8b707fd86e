"""Write the images that codes stand for: ``smalti decode TOKENIZER CODES --out FOLDER``.

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
    return command.ended(lambda: running.run(asked, codes=True))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("decode", __doc__, "smalti decode runs/vqgan data/photos/codes/val --out decoded")
    running.add_options(
        parser,
        "folders of shards of codes, brace patterns or URLs",
        "folder of the images",
        "none, of shared statistics, or faded into each other (blended)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
