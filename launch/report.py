"""Say what runs came to: ``python -m smalti.launch.report RUN... --images a.png --out report.html``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.files import write_whole
from ..trainer.jobs import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, read, write."""
    parser = argparse.ArgumentParser(prog="python -m smalti.launch.report", description=(__doc__ or "").split(":")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of either stage")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="PNG files to show")
    parser.add_argument("--seconds", type=Path, help="a file of lines NAME SECONDS: what took how long")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file")
    asked = parser.parse_args(arguments)
    try:
        parts = [report.reported_run(folder) for folder in asked.runs]
        spent = {} if asked.seconds is None else report.seconds(asked.seconds)
        said = report.summary(parts, spent, asked.images)
        write_whole(asked.out, report.page(parts, said, asked.images).encode())
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join([*said, f"report: {asked.out}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
