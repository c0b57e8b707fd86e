"""Make maps or depths of images: ``smalti annotate edges IMAGES MAPS``.

Edges by Canny's method, labels and depths by a network that you name. Safe to kill: run it again, on any number of
ranks, it goes on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...trainer.exit_code import ExitCode
from .. import command

TIMEOUT_S = 7200.0  # ranks wait for the slowest one's images


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _annotate(asked))


def _annotate(asked: argparse.Namespace) -> int:
    from ...trainer.distributed import ranks  # torch is slow to import
    from ...trainer.files import only_command_in
    from ...trainer.prepare.annotate import EdgesConfig

    how: EdgesConfig | Path
    if asked.kind == "edges":
        how = EdgesConfig(asked.low, asked.high, asked.euclidean, asked.published)
        if asked.network is not None:
            raise ValueError("edges need no network; omit --network, or ask for segmentation or depth")
    elif asked.network is None:
        raise ValueError(f"{asked.kind} needs a network: give a TorchScript file with --network")
    else:
        how = asked.network
    with ranks.process_group(TIMEOUT_S), ranks.entered_by_rank_0(only_command_in(asked.destination)):
        return command.agreed(lambda: _annotate_here(asked, how))


def _annotate_here(asked: argparse.Namespace, how: Any) -> int:
    """This rank's share of the images."""
    from ...trainer.distributed import ranks
    from ...trainer.prepare.annotate import annotate

    found = annotate(asked.kind, asked.source, asked.destination, how, command.note)
    if ranks.rank() == 0:
        command.say_left_out(found.skipped)
        command.say(f"{found.made} made, {found.there} there already, {len(found.skipped)} left out")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("annotate", __doc__, "smalti annotate edges photos/images photos/maps")
    parser.add_argument("kind", choices=("edges", "segmentation", "depth"), help="what is made of each image")
    parser.add_argument("source", type=Path, help="images, as smalti pack takes them")
    parser.add_argument("destination", type=Path, help="a folder for the files, such as maps/ or depth/ beside images/")
    parser.add_argument(
        "--network",
        type=Path,
        metavar="FILE",
        help="TorchScript, a program that you trust: (1, 3, H, W) uint8 to (1, N, H, W) scores of labels, or to "
        "(1, H, W) depth",
    )
    edges = parser.add_argument_group("edges, equal to those of OpenCV's Canny")
    edges.add_argument(
        "--low", type=command.weight, default=100.0, help="gradients above it are edges beside stronger ones (100)"
    )
    edges.add_argument("--high", type=command.weight, default=200.0, help="gradients above it are edges (200)")
    edges.add_argument("--euclidean", action="store_true", help="gradients by sqrt(dx^2 + dy^2), not |dx| + |dy|")
    edges.add_argument(
        "--published", action="store_true", help="as taming-transformers finds them: scikit-image's, with sigma 2"
    )
    command.add_local_rank(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
