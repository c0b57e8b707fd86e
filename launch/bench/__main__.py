"""Measure a part of the project on this machine: ``smalti bench NAME [options]``.

Each module beside this one is a measurement: ``add_arguments(parser)``, and ``run(arguments)``, which prints its own
table and returns the figures. What they share is in ``published`` and ``timing``. The last line printed is one JSON
object with the same figures.
"""

import json
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ...trainer.exit_code import ExitCode
from .. import command

_SHARED = ("__main__", "gpu_parts", "timing")
FORMER = {"stage1": "vqgan_step", "stage2": "prior_step"}
"""Names that measurements had before; they are still answered."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print. Only the module that is asked for is imported."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    chooser = command.parser("bench", __doc__, "smalti bench data")
    chooser.add_argument(
        "name", metavar="NAME", help=f"one of {', '.join(names())}; NAME --help shows the options of a measurement"
    )
    name: str = chooser.parse_args(given[:1]).name
    if name in FORMER:
        command.note(f"bench {name} is called bench {FORMER[name]} now")
        name = FORMER[name]
    if name not in names():
        return command.fail(ValueError(f"there is no measurement {name!r}{command.advice(name, names())}"))
    return command.ended(lambda: _measure(name, given[1:]))


def _measure(name: str, given: Sequence[str]) -> int:
    module = import_module(f".{name}", __package__)
    parser = command.parser(f"bench {name}", module.__doc__, f"smalti bench {name}")
    module.add_arguments(parser)
    figures: dict[str, float | None] = module.run(parser.parse_args(given))
    print(json.dumps(figures), flush=True)
    return ExitCode.DONE


def names() -> list[str]:
    """The measurements that there are."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in found if not module.ispkg and module.name not in _SHARED)


if __name__ == "__main__":
    sys.exit(main())
