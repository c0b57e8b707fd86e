"""Compute what a run will take, without starting it: ``smalti plan CONFIG --nodes 8 --gpus 8 --memory 80``.

Needs no GPU and no data, only the config; for a prior, its tokenizer's folder or ``--codes``. ``--sbatch FILE`` writes
the job script for SLURM; ``--prefetch`` downloads what training downloads, for nodes without a network.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.exit_code import ExitCode
from . import command

SCRIPT = Path(__file__).parent / "slurm" / "train.sbatch"
MARK = "# Written by smalti plan, which writes over it; change a copy under another name."


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call. 0: it fits; 1: it does not; 2: something is wrong with what was asked."""
    asked = _parser().parse_args(arguments)
    try:
        return command.ended(lambda: _plan(asked))
    except RuntimeError as error:  # torch's own words, for shapes that do not fit together
        return command.fail(error)


def _plan(asked: argparse.Namespace) -> int:
    from ..trainer import config as configs  # DeepSpeed comes with the runs, and is slow to import
    from ..trainer.jobs.run import Run
    from ..trainer.planning.costs import measure
    from ..trainer.planning.plan import Machines, plan
    from ..trainer.planning.text import plan_lines
    from ..trainer.planning.tokenizers import tokenizer_configs
    from ..trainer.vqgan import frozen_losses

    if asked.prefetch:
        for path in frozen_losses.prefetch():
            command.say(f"there: {path}")
        if asked.config is None:
            return ExitCode.DONE
    if asked.config is None:
        raise ValueError("name a config, or --prefetch")
    run: Run = configs.read(Run, asked.config, asked.set)
    machines = Machines(asked.nodes, asked.gpus, asked.memory, asked.teraflops, asked.mfu, asked.bandwidth)
    costs = measure(run, tokenizer_configs(run, asked.codes))
    planned = plan(run, costs, machines)
    command.say("\n".join(plan_lines(run, costs, machines, planned)))
    if planned.chosen is None:
        return ExitCode.FAILED
    if asked.sbatch:
        settings = asked.set + planned.settings(costs.networks)
        words = [asked.config, *(word for setting in settings for word in ("--set", setting))]
        _write_script(asked.sbatch, words, asked.nodes, asked.gpus)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("plan", __doc__, "smalti plan vqgan_imagenet_f16_16384 --nodes 8 --gpus 8 --memory 80")
    parser.add_argument("config", nargs="?", help="a YAML file, or the name of a packaged config")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="override a value; repeatable")
    parser.add_argument("--nodes", type=command.count, default=1, metavar="N", help="machines (1)")
    parser.add_argument("--gpus", type=command.count, default=8, metavar="N", help="of a node (8)")
    parser.add_argument("--memory", type=command.positive, default=80.0, metavar="GIB", help="of a GPU (80)")
    parser.add_argument(
        "--teraflops",
        type=command.positive,
        metavar="TFLOPS",
        help="of a GPU at its best (an H100's in the run's precision)",
    )
    parser.add_argument(
        "--mfu",
        type=command.share,
        metavar="SHARE",
        help="share of it that training reaches (what was measured: docs/clusters.md)",
    )
    parser.add_argument(
        "--bandwidth",
        type=command.positive,
        metavar="GB/S",
        help="between GPUs, of each (300 in one node, 40 between nodes)",
    )
    parser.add_argument(
        "--codes", type=command.count, metavar="K", help="of a prior's tokenizer, where its folder is not here"
    )
    parser.add_argument(
        "--sbatch", type=Path, metavar="FILE", help="write the job script for SLURM with these settings"
    )
    parser.add_argument("--prefetch", action="store_true", help="download the frozen networks of the losses now")
    return parser


def _write_script(path: Path, words: Sequence[str], nodes: int, gpus: int) -> None:
    """The packaged job script with the numbers of this plan filled in; its first argument is the config no more."""
    from ..trainer.files import write_own

    text = SCRIPT.read_text()
    for before, after in (
        ("--nodes=1\n", f"--nodes={nodes}\n"),
        ("--ntasks-per-node=8\n", f"--ntasks-per-node={gpus}\n"),
        ("--gres=gpu:8\n", f"--gres=gpu:{gpus}\n"),
        ('"$@"', shlex.join(words) + ' "$@"'),
    ):
        text = text.replace(before, after)
    shebang, body = text.split("\n", 1)
    write_own(path, f"{shebang}\n{MARK}\n{body}".encode(), MARK.encode())
    command.say(f"\n  sbatch {path}")


if __name__ == "__main__":
    sys.exit(main())
