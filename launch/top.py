"""Show how runs stand, on a terminal, from their folders alone: ``smalti top RUN...``.

On a terminal it goes on until Ctrl-C; elsewhere it prints once.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..trainer.exit_code import ExitCode
from . import command

CLEAR = "\x1b[H\x1b[J"  # cursor to the top, all below it gone


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _watch(asked))


def _watch(asked: argparse.Namespace) -> int:
    from ..trainer.reporting.live import status  # slow to import

    with suppress(KeyboardInterrupt):
        while True:
            lines = [line for folder in asked.runs for line in status(folder)]
            command.say((CLEAR if sys.stdout.isatty() else "") + "\n".join(lines))
            if not sys.stdout.isatty():
                break
            time.sleep(asked.every)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("top", __doc__, "smalti top runs/vqgan runs/prior")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of either stage")
    parser.add_argument("--every", type=command.seconds, default=2.0, metavar="S", help="seconds between two looks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
