"""Measure a part of the project on this machine: ``smalti bench NAME [options]``.

Each module beside this one is a measurement: ``add_arguments(parser)``, and ``run(arguments)``, which prints its own
table and returns the figures. What they share is in ``published`` and ``timing``. The last line printed is one JSON
object with the same figures.
"""

import argparse
import json
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

_SHARED = ("__main__", "gpu_parts", "published", "timing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print. Only the module that is asked for is imported."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    chooser = argparse.ArgumentParser(
        prog="smalti bench",
        description=(__doc__ or "").split(":")[0],
        epilog="NAME --help shows the options of a measurement",
    )
    chooser.add_argument("name", choices=names(), metavar="NAME", help=f"one of {', '.join(names())}")
    name: str = chooser.parse_args(given[:1]).name
    module = import_module(f".{name}", __package__)
    parser = argparse.ArgumentParser(prog=f"{chooser.prog} {name}", description=(module.__doc__ or "").split("\n")[0])
    module.add_arguments(parser)
    figures: dict[str, float] = module.run(parser.parse_args(given[1:]))
    print(json.dumps(figures), flush=True)
    return 0


def names() -> list[str]:
    """The measurements that there are."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in found if module.name not in _SHARED)


if __name__ == "__main__":
    sys.exit(main())
