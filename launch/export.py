"""Export a run's weights, model.safetensors and config.json: ``smalti export RUN DEST``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.checkpoint.loading import export
from ..trainer.exit_code import ExitCode
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _export(asked))


def _export(asked: argparse.Namespace) -> int:
    metadata = export(asked.run, asked.destination)
    command.say(f"{asked.destination}: {metadata['task']}, weights {metadata['digest'][:12]}")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("export", __doc__, "smalti export runs/vqgan exports/vqgan")
    parser.add_argument("run", type=Path, help="folder of a run of either stage")
    parser.add_argument("destination", type=Path, help="a folder that is not there yet, or is an older export")
    return parser


if __name__ == "__main__":
    sys.exit(main())
