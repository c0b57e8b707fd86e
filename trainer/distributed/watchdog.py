"""A thread of every rank that asks twice a second: are steps still done, and is this job still wanted?

A stalled rank shows where all of its threads stand, and ends when the patience is over: a job of which one rank hangs
would otherwise wait on, and bill, until somebody looks. A rank whose launcher is gone would go on without anybody who
could stop it: it asks itself to leave, as a preemption does. So does one that finds the request in its run's folder.
"""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from ..exit_code import ExitCode
from . import signals

PERIOD_S = 0.5

_last_sign = time.monotonic()


def heartbeat() -> None:
    """Something was done: a step, a batch of an evaluation."""
    global _last_sign
    _last_sign = time.monotonic()


class Watchdog:
    """Looks after this rank between ``start`` and ``stop``.

    Args:
        patience_s: without a sign of life for half of it, the threads' stacks are shown; after all of it, the process
            ends with code 70.
        launched: whether a launcher started this process; a shell may go away.
        request_stop: a file that is touched from now on when the job is to leave (``exit_codes.request_stop``).
    """

    def __init__(self, patience_s: float, launched: bool, request_stop: Path | None = None) -> None:
        self._patience_s = patience_s
        self._launchers = signals.launchers() if launched else []
        self._orphaned = launched and signals.orphaned()
        self._request = request_stop
        self._old_request = _touched(request_stop)
        self._name = f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        heartbeat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        shown = asked = False
        while not self._stopped.wait(PERIOD_S):
            if not asked and (reason := self._reason_to_leave()):
                asked = True
                self._say(f"{reason}; saving and leaving")
                os.kill(os.getpid(), signal.SIGTERM)
            stalled_s = time.monotonic() - _last_sign
            if stalled_s > self._patience_s:
                self._say(f"nothing was done for {stalled_s:.0f} s; ending")
                os._exit(ExitCode.STALLED)
            if stalled_s <= self._patience_s / 2:
                shown = False
            elif not shown:
                shown = True
                self._say(f"nothing was done for {stalled_s:.0f} s; its threads stand here:")
                faulthandler.dump_traceback(sys.__stderr__ or 2)

    def _reason_to_leave(self) -> str:
        if self._orphaned or any(not _runs(pid) for pid in self._launchers):
            return "the launcher is gone"
        return "" if _touched(self._request) in (None, self._old_request) else f"{self._request} asks to"

    def _say(self, text: str) -> None:
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)


def _touched(file: Path | None) -> int | None:
    """When a file was touched, in nanoseconds; None when it is not there."""
    try:
        return file.stat().st_mtime_ns if file else None
    except OSError:
        return None


def _runs(pid: int) -> bool:
    """Whether a process is there and has not ended; where there is no /proc, whether it is still the parent."""
    if not Path("/proc/self/stat").exists():
        return pid == os.getppid()
    fields = signals.read(pid, "stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] != b"Z"
