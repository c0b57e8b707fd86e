"""One job after another until the run is done: what fails is started again, and goes on from its last checkpoint.

A rank cannot restart the others, and a launcher does not know what the run has saved. This stands above both.

    RUN/remaining-hosts.txt    the hostfile without the hosts that did not answer before the last restart
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...models.bounds import Count, check_ranges
from ..checkpoint import storage
from ..distributed import ranks
from ..exit_code import ExitCode
from . import exit_codes, failures, hosts, side_files
from .side_files import REMAINING_HOSTS

FINAL = (ExitCode.DONE, ExitCode.WRONG, ExitCode.NOT_SAVED, ExitCode.LEFT)
SSH_FAILED = 255  # ssh's own exit code, which pdsh gives before any other
LOOK_S = 0.5  # between two looks at whether the job was asked to leave
ORPHANS_S = 600.0  # for ranks whose launcher died while the job was asked to leave


@dataclass(frozen=True)
class Hosts:
    """The hostfile of a command, and how many of its hosts are enough to go on."""

    file: Path
    minimum: Count = 1

    def __post_init__(self) -> None:
        check_ranges(self)
        there = len(hosts.listed(self.file))
        if not 1 <= self.minimum <= there:
            raise ValueError(f"minimum_hosts must be from 1 to the {there} of {self.file}, got {self.minimum}")


class TooFewError(Exception):
    """Not enough hosts are left to go on."""


def supervise(command: Sequence[str], run: Path, restarts: int, pool: Hosts | None = None) -> int:
    """Run a command that trains until the run is done, and give the exit code of the last job.

    What does not get better by itself is not started again: a wrong config, a full disk, a job that was asked to leave.

    Args:
        command: a launcher and the train command, or that alone.
        run: the run's folder.
        restarts: how often a job is started again, whether it got on or not.
        pool: hosts of which those that do not answer are left out of the next start; the command must name its file.

    Raises:
        OSError, ValueError: the command cannot be started, or does not name the hostfile, or a file of the user's has
            the name of the one that would take its place.
    """
    if pool is not None:
        _check_hostfile(command, pool.file, run / REMAINING_HOSTS)
    words, started = list(command), 0
    with ranks.Interrupt() as interrupt:
        while not interrupt.raised:
            code = _run(words, run, interrupt)
            if code in FINAL or interrupt.raised:
                return code
            ended = f"the job ended with {code} ({_meaning(code, run)})"
            if started == restarts:
                _say(f"{ended}; it was started again {restarts} time(s). The same command goes on {_beginning(run)}")
                return code
            started += 1
            try:
                words, without = _without_dead_hosts(command, run, pool)
            except TooFewError as error:
                _say(f"{ended}; {error}. The same command goes on {_beginning(run)}")
                return code
            _say(f"{ended}; restart {started} of {restarts} {_beginning(run)}{without}")
    return ExitCode.LEFT


def _run(command: Sequence[str], run: Path, interrupt: ranks.Interrupt) -> int:
    """Start a job, pass on the request to stop, and wait for its end; what it ended with.

    The job is a process group of its own: a first Ctrl-C reaches it as that request alone, a second one ends it.
    """
    exit_codes.forget(run)
    failures.forget(run)
    job = subprocess.Popen(command, start_new_session=True)
    try:
        while job.poll() is None:
            _pass_on(interrupt, run)
        orphaned = time.monotonic()
        while interrupt.raised and exit_codes.last(run) is None and _any_left(job.pid):
            if time.monotonic() - orphaned > ORPHANS_S:
                break
            _pass_on(interrupt, run)
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGTERM)
        raise
    finally:
        exit_codes.withdraw_stop_request(run)
    return _code(job.returncode, exit_codes.last(run), bool(interrupt.raised))


def _pass_on(interrupt: ranks.Interrupt, run: Path) -> None:
    if interrupt.raised:
        exit_codes.request_stop(run)
    time.sleep(LOOK_S)


def _any_left(group: int) -> bool:
    """Whether a process group still has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _code(launcher: int, recorded: int | None, asked: bool) -> int:
    """What a job ended with: rank 0's word where there is one, for launchers change the codes of their ranks.

    A launcher's 0 alone is not believed. Ranks that left unasked because their launcher was killed have failed.
    """
    launcher = 128 - launcher if launcher < 0 else launcher
    orphans = recorded == ExitCode.LEFT and not asked and (launcher == 0 or launcher > 128)
    if recorded is None or orphans:
        return launcher or ExitCode.FAILED
    return recorded


def _meaning(code: int, run: Path) -> str:
    """What is known of the end of a job, in a few words."""
    cause = failures.reported_failures(run)
    if cause:
        return cause
    if code == ExitCode.STALLED:
        return "nothing was done for timeout_s"
    if code == SSH_FAILED:
        return "ssh has lost a host, see above"
    if code > 128:
        number = 256 - code if code > 192 else code - 128  # sys.exit(-9) of a launcher, 128 + 9 of a shell
        if number == signal.SIGABRT:
            return "killed by SIGABRT, as NCCL ends a rank that has lost another or waited for timeout_s; see above"
        with suppress(ValueError):
            return f"killed by {signal.Signals(number).name}"
    return "see above"


def _beginning(run: Path) -> str:
    saved = storage.list_checkpoints(run)
    return f"from the checkpoint of step {saved[0].step}" if saved else "from the start: nothing is saved yet"


def _without_dead_hosts(command: Sequence[str], run: Path, pool: Hosts | None) -> tuple[list[str], str]:
    """The command for the hosts that answer, and which do not, in words.

    Raises:
        TooFewError: fewer than the minimum answer.
    """
    if pool is None:
        return list(command), ""
    listed = hosts.listed(pool.file)
    silent = hosts.silent(listed)
    left = len(listed) - len(silent)
    if left < pool.minimum:
        raise TooFewError(f"only {left} host(s) answer, not {', '.join(silent)}, and {pool.minimum} are needed")
    if not silent:
        return list(command), ""
    hosts.write_without(pool.file, silent, run / REMAINING_HOSTS)
    return _renamed(command, pool.file, run / REMAINING_HOSTS), f", without {', '.join(silent)} (no answer by ssh)"


def _check_hostfile(command: Sequence[str], hostfile: Path, remaining: Path) -> None:
    """Before the first start: could a host be left out?

    Raises:
        ValueError: it could not.
    """
    if _renamed(command, hostfile, Path(REMAINING_HOSTS)) == list(command):
        raise ValueError(f"the command must name {hostfile}, so that a host can be left out, got {' '.join(command)}")
    if hostfile.resolve() == remaining.resolve() or not side_files.is_free(remaining):
        raise ValueError(
            f"{remaining} is to hold the hosts that are left; move your file away, or give it another name"
        )


def _renamed(command: Sequence[str], old: Path, new: Path) -> list[str]:
    """The words of a command with another file in place of one: ``FILE`` or ``--option=FILE``."""
    split = (word.rpartition("=") for word in command)
    return [f"{option}{equals}{new if Path(word) == old else word}" for option, equals, word in split]


def _say(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)
