"""Export a run's weights in a format that others load: ``smalti export RUN DEST --format FORMAT``.

What a format cannot represent exactly is refused with the reason; docs/exchange.md has the table of formats.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..models import bounds
from ..trainer.checkpoint import model_files
from ..trainer.checkpoint.best import best_checkpoint
from ..trainer.checkpoint.loading import resolve_weights
from ..trainer.exchange import exporting
from ..trainer.exit_code import ExitCode
from ..trainer.prepare.used_codes import used_codes
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    command.drop_output_that_fails()
    return command.ended(lambda: _export(asked))


def _export(asked: argparse.Namespace) -> int:
    run = best_checkpoint(asked.run) if asked.checkpoint == "best" else asked.run
    codes = None
    if asked.used_in is not None:
        metadata = model_files.read_metadata(resolve_weights(run), "vqgan")
        codes = tuple(used_codes([str(asked.used_in)], metadata))
        command.say(f"{len(codes)} of {metadata['codes']} codes are used in {asked.used_in}, and kept")
    options = exporting.Options(
        asked.weights, asked.dtype, asked.shard_bytes, asked.tokenizer, asked.condition_tokenizer, codes
    )
    for line in exporting.export(run, asked.destination, asked.format, options):
        command.say(line)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("export", __doc__, "smalti export runs/vqgan exports/vqgan")
    parser.add_argument("run", type=Path, help="folder of a run of either stage, or of an export")
    parser.add_argument("destination", type=Path, help="a folder that is not there yet, or is an older export")
    parser.add_argument(
        "--checkpoint",
        choices=("newest", "best"),
        default="newest",
        help="of a run: the newest one, or the best by the run's keep_best",
    )
    parser.add_argument(
        "--used-in", type=Path, metavar="CODES", help="of a VQGAN: keep the codes that these code shards of it use"
    )
    formats = ", ".join(exporting.FORMATS)
    parser.add_argument("--format", choices=exporting.FORMATS, default="smalti", help=f"one of {formats}")
    parser.add_argument(
        "--weights", choices=exporting.WEIGHTS, default="ema", help="of a run: averaged (ema), or as trained (raw)"
    )
    parser.add_argument("--dtype", choices=list(exporting.DTYPES), help="of the floating numbers; default: as they are")
    parser.add_argument(
        "--shard-bytes",
        type=command.within(bounds.Bytes),
        default=exporting.Options().shard_bytes,
        help="the most bytes of a file of weights",
    )
    parser.add_argument("--tokenizer", type=Path, help="of a prior, for formats that hold both (taming)")
    parser.add_argument("--condition-tokenizer", type=Path, help="of a prior's maps or depths, alike")
    return parser


if __name__ == "__main__":
    sys.exit(main())
