"""Export a run's weights, model.safetensors and config.json: ``python -m smalti.launch.export RUN DEST``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.checkpoint.loading import export


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    parser = argparse.ArgumentParser(prog="python -m smalti.launch.export", description=(__doc__ or "").split(":")[0])
    parser.add_argument("run", type=Path, help="folder of a run of either stage")
    parser.add_argument("destination", type=Path)
    asked = parser.parse_args(arguments)
    try:
        card = export(asked.run, asked.destination)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{asked.destination}: {card['task']}, weights {card['digest'][:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
