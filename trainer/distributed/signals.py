"""What happens while a command is still importing, which takes seconds: signals and launchers are remembered."""

import os
import signal
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # a Ctrl-C ends a command that has only begun at once

LAUNCHERS = (b"deepspeed", b"torchrun", b"torch.distributed")
INIT = 1  # the process that takes in orphans

_raised: signal.Signals | None = None
_launchers: list[int] = []
_orphaned = False


class StopRequestedError(Exception):
    """The job was asked to leave before it had begun."""


def install_early_handlers() -> None:
    """From now on the signals are remembered, and nothing else. Call it in the main thread, before other imports."""
    global _orphaned
    for number in SIGNALS:
        signal.signal(number, _note)
    _launchers[:] = chain()
    # DeepSpeed's launcher of a node is a child of the command that the user gave, or of a remote shell.
    last = _launchers[-1]
    _orphaned = b"deepspeed.launcher.launch" in read(last, "cmdline") and parent(last) == INIT


def raised() -> signal.Signals | None:
    """The signal that has asked this process to leave while only ``install_early_handlers`` listened; None if there was
    none.
    """
    return _raised


def _note(number: int, _: FrameType | None) -> None:
    global _raised
    _raised = signal.Signals(number)


def launchers() -> list[int]:
    """The processes above this one whose job it is, as they were when ``install_early_handlers`` was called, or as they
    are now.
    """
    return _launchers or chain()


def orphaned() -> bool:
    """Whether the command above the launcher was gone already when ``install_early_handlers`` was called."""
    return _orphaned


def chain() -> list[int]:
    """The parent, and the launcher's processes above it without a gap."""
    found = [os.getppid()]
    while above := parent(found[-1]):
        if not any(name in read(above, "cmdline") for name in LAUNCHERS):
            break
        found.append(above)
    return found


def parent(pid: int) -> int:
    """The parent of a process; 0 when there is none, or no /proc to tell."""
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def read(pid: int, name: str) -> bytes:
    """A file of a process in /proc; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
