"""What DeepSpeed logs: its warnings in one line each, once, from rank 0; the rest in a file of the run.

RUN/deepspeed.log    what DeepSpeed says on rank 0: a line with its time and level for each message
"""

import logging
import sys
from pathlib import Path

FILE = "deepspeed.log"
MOST_BYTES = 1_000_000  # of the file, to which the starts of a run add
# Said at every import on a machine without a GPU; which device a job runs on is in its first line.
_FALSE_ALARM = "Setting accelerator to CPU"
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _Collector(logging.Filter):
    """Takes every message before the handler that DeepSpeed gives its logger at its import, which gets none."""

    def __init__(self, speaks: bool) -> None:
        super().__init__()
        self.speaks = speaks
        self.file: Path | None = None
        self._said: set[str] = set()
        self._format = logging.Formatter(_FORMAT)

    def filter(self, record: logging.LogRecord) -> bool:
        message = " ".join(record.getMessage().split())
        self._keep(record)
        if record.levelno >= logging.ERROR or (self.speaks and record.levelno >= logging.WARNING):
            self._say(record.levelname.lower(), message)
        return False

    def _say(self, level: str, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            print(f"{level}: DeepSpeed: {message}", file=sys.stderr, flush=True)

    def _keep(self, record: logging.LogRecord) -> None:
        if self.file is None:
            return
        try:
            with self.file.open("a", encoding="utf-8") as file:
                if file.tell() < MOST_BYTES:
                    file.write(self._format.format(record).replace("\n", " ") + "\n")
        except OSError:  # a full disk ends no training for want of this
            return


def collect(rank: int) -> None:
    """From now on DeepSpeed's messages come here. Call it before DeepSpeed is imported.

    Args:
        rank: of this process; errors are said by every rank, warnings by rank 0.
    """
    logger = logging.getLogger("DeepSpeed")
    if not any(isinstance(found, _Collector) for found in logger.filters):
        logger.addFilter(_Collector(rank == 0))


def write_to(run: Path) -> None:
    """From now on rank 0's messages, those that only inform too, are kept in a run's folder."""
    logger = logging.getLogger("DeepSpeed")
    for found in logger.filters:
        if isinstance(found, _Collector) and found.speaks:
            found.file = run / FILE
            logger.setLevel(logging.INFO)


def leave_out_false_alarm() -> None:
    """From now on DeepSpeed does not say at its import that there is no GPU. Call it before DeepSpeed is imported."""
    logging.getLogger("DeepSpeed").addFilter(_is_no_false_alarm)


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_FALSE_ALARM)
