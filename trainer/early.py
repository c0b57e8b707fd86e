"""A signal that asks a command to leave is remembered while the command is still importing, which takes seconds."""

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # a Ctrl-C ends a command that has only begun at once

_raised: signal.Signals | None = None


class LeftError(Exception):
    """The job was asked to leave before it had begun."""


def listen() -> None:
    """From now on the signals are remembered, and nothing else. Call it in the main thread, before other imports."""
    for number in SIGNALS:
        signal.signal(number, _note)


def raised() -> signal.Signals | None:
    """The signal that has asked this process to leave while only ``listen`` listened; None if there was none."""
    return _raised


def _note(number: int, _: FrameType | None) -> None:
    global _raised
    _raised = signal.Signals(number)
