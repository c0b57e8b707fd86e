"""Train a VQGAN or a prior.

``deepspeed --module smalti.launch.train CONFIG``, or ``python -m smalti.launch.train CONFIG`` for one process. The same
command goes on where the run stands. Exit codes: 0 the last step is reached; 1 the job failed in mid-training; 2
something is wrong with the config, the data or the folder and nothing was trained; 70 nothing was done for timeout_s
seconds; 74 a checkpoint could not be written; 75 the job was asked to leave and saved.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.distributed import signals
from ..trainer.distributed.process.rank_info import rank_info_from_env
from ..trainer.exit_code import ExitCode
from . import command


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    made = command.parser("train", __doc__, "smalti train demo_vqgan --set run_dir=runs/mine --set loop.max_steps=100")
    made.add_argument("config", help="a YAML file, or the name of a packaged config such as demo_vqgan")
    made.add_argument("--set", action="append", default=[], metavar="a.b=value", help="override a value; repeatable")
    made.add_argument("--print-config", action="store_true", help="print the resolved config and exit")
    made.add_argument(
        "--profile", type=_window, metavar="FIRST:END", help="trace these steps and print the time of every part"
    )
    made.add_argument("--fresh", action="store_true", help="remove what the folder holds of the run, and start anew")
    command.add_local_rank(made)
    return made


def _window(text: str) -> tuple[int, int]:
    """FIRST:END in steps, as a type of ``argparse``."""
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"steps are FIRST:END with FIRST below END, such as 10:20, got {text!r}")
    return int(match[1]), int(match[2])


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    signals.install_early_handlers()  # before the imports, which take seconds
    asked = parser().parse_args(arguments)
    from ..trainer import config as configs
    from ..trainer.checkpoint.save_error import SaveError
    from ..trainer.distributed import ranks
    from ..trainer.distributed.watchdog import Watchdog
    from ..trainer.jobs import exit_codes, side_files
    from ..trainer.jobs.failures import FailedError
    from ..trainer.jobs.run import Run, train
    from ..trainer.planning.costs import step_flops
    from ..trainer.training.profiling import ProfileWindow

    try:
        run: Run = configs.read(Run, asked.config, asked.set)
        if asked.print_config:
            print(configs.dump(run), end="")
            return ExitCode.DONE
        command.drop_output_that_fails()
        launched = "RANK" in os.environ
        stop_request = Path(run.run_dir, side_files.STOP_REQUEST) if rank_info_from_env(os.environ).rank == 0 else None
        with Watchdog(run.timeout_s, launched, stop_request), ranks.process_group(run.timeout_s):
            done = train(run, asked.fresh, step_flops, asked.profile and ProfileWindow(*asked.profile))
            return ExitCode.DONE if done else ExitCode.LEFT
    except signals.StopRequestedError:
        return ExitCode.LEFT
    except FailedError:
        return ExitCode.FAILED  # it has been said
    except ranks.ConnectError as error:  # each rank has its own
        command.note(f"error: {error}")
        return ExitCode.FAILED
    except (SaveError, OSError, ValueError) as error:
        return command.fail(error, exit_codes.code_of(error))


if __name__ == "__main__":
    sys.exit(main())
