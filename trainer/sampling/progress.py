"""Progress of a sampling job: a preview image and a partial state, written every few seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...models.bounds import Pause, Weight, Width, check_ranges
from ...models.sampling import SamplingState


@dataclass(frozen=True)
class SamplingJobConfig:
    """How a rank goes about its images. Nothing here changes them."""

    batch: Width = 1  # images that are painted together
    save_every_s: Weight = 30.0  # how much work a kill may cost
    preview_every_s: Pause | None = None  # a look at unfinished images; None: no look

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


class ProgressTracker:
    """Tells how a painting gets on, and when to keep it and to show it.

    Args:
        config: how often.
        skipped: codes of an image that were painted before; they do not count for the pace.
        say: takes a line for the user.
    """

    TELL_EVERY_S = 5.0

    def __init__(self, config: SamplingJobConfig, skipped: int, say: Callable[[str], None]) -> None:
        self.config = config
        self.skipped = skipped
        self.say = say
        self.began = self.told = self.kept = self.shown = time.monotonic()

    def look(
        self, painting: SamplingState, keep: Callable[[SamplingState], None], show: Callable[[SamplingState], None]
    ) -> None:
        """After every step; ``keep`` and ``show`` are called when their time has come, not for a finished painting."""
        now = time.monotonic()
        finished = painting.filled == painting.cells
        if painting.filled <= self.skipped:
            self.began = now
        elif finished or now - self.told >= self.TELL_EVERY_S:
            self.told = now
            self.say(self.line(painting, now))
        if finished:
            return
        if now - self.kept >= self.config.save_every_s:
            keep(painting)
            self.kept = now
        if self.config.preview_every_s is not None and now - self.shown >= self.config.preview_every_s:
            show(painting)
            self.shown = now

    def line(self, painting: SamplingState, now: float) -> str:
        """Codes a second of all images together, and the time that is left."""
        together = len(painting.codes)
        pace = (painting.filled - self.skipped) * together / max(now - self.began, 1e-9)
        left = (painting.cells - painting.filled) * together / pace
        done, of = painting.filled * together, painting.cells * together
        return f"{done}/{of} codes  {pace:.0f} codes/s  left {left:.0f} s"
