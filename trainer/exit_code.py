"""The exit codes of all commands; docs/clusters.md says what each means for a scheduler."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with."""

    DONE = 0
    FAILED = 1  # the job failed in mid-work, or some of what was asked for could not be done
    WRONG = 2  # something is wrong with what was asked: config, data, folder; nothing was begun
    STALLED = 70  # nothing was done for the run's timeout_s
    NOT_SAVED = 74  # a checkpoint could not be written
    LEFT = 75  # asked to stop; saved, and to be started again
