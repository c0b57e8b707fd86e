"""Write what runs came to into one HTML file: ``smalti report RUN... --out report.html``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.exit_code import ExitCode
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _report(asked))


def _report(asked: argparse.Namespace) -> int:
    from ..trainer.files import write_own
    from ..trainer.reporting import page  # slow to import
    from ..trainer.reporting import runs as reported

    runs = [reported.reported_run(folder) for folder in asked.runs]
    spent = {} if asked.seconds is None else reported.seconds(asked.seconds)
    summary = reported.summary(runs, spent, asked.images)
    write_own(asked.out, page.page(runs, summary, asked.images, spent).encode(), page.MARK)
    command.say("\n".join([*summary, f"report: {asked.out}"]))
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("report", __doc__, "smalti report runs/vqgan runs/prior --out report.html")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of either stage")
    parser.add_argument("--images", type=Path, nargs="*", default=[], metavar="FILE", help="PNG files to show")
    parser.add_argument("--seconds", type=Path, metavar="FILE", help="a file of lines NAME SECONDS: what took how long")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
