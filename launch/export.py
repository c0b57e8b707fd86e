"""Export a run's weights in a format that others load: ``smalti export RUN DEST --format FORMAT``.

What a format cannot represent exactly is refused with the reason; docs/exchange.md has the table of formats.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.exchange import exporting
from ..trainer.exit_code import ExitCode
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _export(asked))


def _export(asked: argparse.Namespace) -> int:
    options = exporting.Options(
        asked.weights, asked.dtype, asked.shard_bytes, asked.tokenizer, asked.condition_tokenizer
    )
    for line in exporting.export(asked.run, asked.destination, asked.format, options):
        command.say(line)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("export", __doc__, "smalti export runs/vqgan exports/vqgan")
    parser.add_argument("run", type=Path, help="folder of a run of either stage, or of an export")
    parser.add_argument("destination", type=Path, help="a folder that is not there yet, or is an older export")
    formats = ", ".join(exporting.FORMATS)
    parser.add_argument("--format", choices=exporting.FORMATS, default="smalti", help=f"one of {formats}")
    parser.add_argument(
        "--weights", choices=exporting.WEIGHTS, default="ema", help="of a run: averaged (ema), or as trained (raw)"
    )
    parser.add_argument("--dtype", choices=list(exporting.DTYPES), help="of the floating numbers; default: as they are")
    parser.add_argument(
        "--shard-bytes", type=int, default=exporting.Options().shard_bytes, help="the most bytes of a file of weights"
    )
    parser.add_argument("--tokenizer", type=Path, help="of a prior, for formats that hold both (taming)")
    parser.add_argument("--condition-tokenizer", type=Path, help="of a prior's maps or depths, alike")
    return parser


if __name__ == "__main__":
    sys.exit(main())
