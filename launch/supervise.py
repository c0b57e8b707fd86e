"""Train a run to its end, starting failed jobs again.

``smalti supervise --max-restarts 3 -- deepspeed --num_gpus 8 --module smalti.launch.train CONFIG``, or
with torchrun, srun, python alone after the ``--``. A job that fails goes on from the last checkpoint, at most so many
times. With ``--hostfile H``, which the command names too, hosts that do not answer ssh are left out of the next start.
SIGTERM, SIGUSR1 and Ctrl-C make the ranks save and leave, whatever the launcher does with them. Exit codes: those of
``smalti.launch.train``, of the last job.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.distributed import signals
from . import command, train

TRAIN = "smalti.launch.train"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, call."""
    signals.install_early_handlers()  # before the imports, which take seconds
    asked = _parser().parse_args(arguments)
    command.drop_output_that_fails()
    from ..trainer import config as configs
    from ..trainer.jobs.run import Run
    from ..trainer.jobs.supervisor import Hosts, supervise

    try:
        options = _train_options(asked.command)
        run: Run = configs.read(Run, options.config, options.set)
        pool = Hosts(asked.hostfile, asked.minimum_hosts) if asked.hostfile else None
        return supervise(asked.command, Path(run.run_dir), asked.max_restarts, pool)
    except (OSError, ValueError) as error:
        return command.fail(error)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "supervise",
        __doc__,
        "smalti supervise --max-restarts 3 -- deepspeed --num_gpus 8 --module smalti.launch.train demo_vqgan",
    )
    parser.add_argument(
        "--max-restarts", type=command.natural, default=3, metavar="N", help="start a failed job again N times"
    )
    parser.add_argument("--hostfile", type=Path, help="the command's own; hosts that are gone are left out of it")
    parser.add_argument(
        "--minimum-hosts", type=command.count, default=1, metavar="M", help="go on only with at least M of them"
    )
    parser.add_argument("command", nargs="+", help=f"after --: [a launcher and its options] {TRAIN} CONFIG ...")
    return parser


def _train_options(command: Sequence[str]) -> argparse.Namespace:
    """What the command gives to ``smalti.launch.train``.

    Raises:
        ValueError: it does not train, or would begin anew at every start.
    """
    if TRAIN not in command:
        raise ValueError(f"the command must have the words {TRAIN} CONFIG, got: {' '.join(command)}")
    options = train.parser().parse_args(command[command.index(TRAIN) + 1 :])
    if options.fresh or options.print_config:
        raise ValueError("--fresh would begin anew at every restart; remove the run's folder, and leave it out")
    return options


if __name__ == "__main__":
    sys.exit(main())
