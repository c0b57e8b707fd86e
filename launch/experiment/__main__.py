"""Run one of the paper's comparisons: ``smalti experiment table1 --size tiny``.

Trains, evaluates and writes a table with the paper's figures beside it, a plot and images: a section of a page, in
OUT/section.md. Steps that are done are not done again, so the same command goes on after a kill. Exit codes: 0 all is
done, 2 something is wrong with what was asked, else the code of the step that failed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ...trainer.exit_code import ExitCode
from .. import command
from .sizes import Name

EXPERIMENTS = {
    "table1": "transformer against PixelSNAIL: validation likelihood at equal steps and at equal time",
    "factors": "reconstruction and likelihood against the number of downsampling blocks",
    "vqvae-vqgan": "one network under both objectives",
    "completion": "latent against pixel-level transformer at equal compute",
    "orders": "the orders in which codes are read",
}
MODULES = {name: name.replace("vqvae-vqgan", "objectives") for name in EXPERIMENTS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _experiment(asked))


def _experiment(asked: argparse.Namespace) -> int:
    from importlib import import_module  # torch is slow to import

    from ...trainer.files import only_command_in
    from . import section
    from .lab import Lab, StepError
    from .sizes import SIZES

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("an experiment starts its ranks itself; name what starts them with --launcher")
    out: Path = asked.out or Path("runs/experiments") / f"{asked.name}-{asked.size}"
    experiment = import_module(f".{MODULES[asked.name]}", __package__)
    with only_command_in(out):
        try:
            lab = Lab(out, SIZES[asked.size], asked.data, asked.launcher, command.say)
            result = experiment.run(lab)
        except StepError as error:
            return command.fail(error, error.code if error.code > 0 else ExitCode.FAILED)
        words = f"smalti experiment {asked.name} --size {asked.size}"
        lines = section.write(lab, asked.name, asked.size, words, result)
    command.say("\n".join([*lines, f"section: {out / 'section.md'}; its images belong into images/ beside the page"]))
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("experiment", __doc__, "smalti experiment table1 --size tiny")
    about = "; ".join(f"{name}: {what}" for name, what in EXPERIMENTS.items())
    parser.add_argument("name", choices=tuple(EXPERIMENTS), metavar="NAME", help=about)
    parser.add_argument(
        "--size",
        choices=get_args(Name),
        default="tiny",
        help="smoke: a few steps; tiny: minutes on two CPU cores; small: hours on one GPU; paper: the paper's networks "
        "(tiny)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="its folder (runs/experiments/NAME-SIZE)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="packed images, with maps for table1, in train/ and val/ (landscapes)",
    )
    parser.add_argument(
        "--launcher",
        metavar="COMMAND",
        help='starts train, encode and evaluate on several ranks, such as "deepspeed --hostfile hosts" (one process)',
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
