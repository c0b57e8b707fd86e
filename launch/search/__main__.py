"""Search the sampling settings of a prior: ``smalti search PRIOR SHARDS --out FOLDER --guidance 1 2 --top-k 100 0``.

Every combination is evaluated as ``smalti evaluate`` does, whose other options are given by --evaluate: on images by
their Frechet distance, of which a few hundred tell settings apart, and the best ones are to be evaluated again on a
whole set; with --metric drawn_nll, on codes too, by the likelihood of known codes under what is drawn from.
Settings that are done are not done again. ``deepspeed --module smalti.launch.search`` shares the samples out.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ...trainer.exit_code import ExitCode
from .. import command
from ..evaluate import __main__ as evaluation

NO_LIMIT = 0  # of --top-k and --top-p


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    request = evaluation.parser().parse_args([str(asked.run), *asked.shards, *shlex.split(asked.evaluate)])
    return command.ended(lambda: _search(asked, request))


def _search(asked: argparse.Namespace, request: argparse.Namespace) -> int:
    from ...trainer.distributed import ranks  # torch is slow to import

    with ranks.process_group(evaluation.TIMEOUT_S):
        return command.agreed(lambda: _search_here(asked, request))


def _search_here(asked: argparse.Namespace, request: argparse.Namespace) -> int:
    """This rank's share of the samples."""
    from ...trainer.distributed import ranks
    from ...trainer.evaluation.evaluate import EvaluationRequest
    from . import grid

    words = {name: value for name, value in vars(request).items() if name not in ("out", "local_rank")}
    axes = {
        "guidance": asked.guidance,
        "temperature": asked.temperature,
        "top_k": [value or None for value in asked.top_k],
        "top_p": [value or None for value in asked.top_p],
    }
    base = ranks.agreed(lambda: EvaluationRequest(**words))
    lines = grid.search(base, axes, asked.metric, asked.out, command.note)
    if ranks.rank() == 0:
        command.say("\n".join(lines))
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "search",
        __doc__,
        "smalti search runs/prior data/photos/few --out runs/search --guidance 1 1.5 2 --top-k 100 0",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a prior's run or export")
    parser.add_argument("shards", nargs="+", help="folders of shards of images or codes, patterns or URLs")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the results; run again, it goes on"
    )
    parser.add_argument(
        "--metric", default="fid", metavar="NAME", help="figure of smalti evaluate that the table is sorted by (fid)"
    )
    parser.add_argument(
        "--evaluate",
        default="",
        metavar="OPTIONS",
        help="further options of smalti evaluate, in one text, such as '--features net.pt --seed 1' (none)",
    )
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0], metavar="SCALE", help="scales to try (1)")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0], metavar="T", help="to try (1)")
    parser.add_argument(
        "--top-k", type=int, nargs="+", default=[NO_LIMIT], metavar="K", help="to try; 0 keeps all codes (0)"
    )
    parser.add_argument(
        "--top-p", type=float, nargs="+", default=[NO_LIMIT], metavar="P", help="to try; 0 keeps all codes (0)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
