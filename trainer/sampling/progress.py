"""Progress of a sampling job: a preview image and a partial state, written every few seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...models.bounds import Pause, Weight, Width, check_ranges
from ...models.sampling import SamplingState


@dataclass(frozen=True)
class SamplingJobConfig:
    """How a rank goes about its images. Nothing here changes them."""

    batch: Width = 1  # images that are sampled together
    save_every_s: Weight = 30.0  # how much work a kill may cost
    preview_every_s: Pause | None = None  # a look at unfinished images; None: no look

    def __post_init__(self) -> None:
        check_ranges(self)


class ProgressTracker:
    """Tells how a sample gets on, and when to keep it and to show it.

    Args:
        config: how often.
        skipped: codes of an image that were sampled before; they do not count for the pace.
        say: takes a line for the user.
    """

    TELL_EVERY_S = 5.0

    def __init__(self, config: SamplingJobConfig, skipped: int, say: Callable[[str], None]) -> None:
        self.config = config
        self.skipped = skipped
        self.say = say
        self.began = self.printed = self.kept = self.shown = time.monotonic()

    def look(
        self, state: SamplingState, keep: Callable[[SamplingState], None], show: Callable[[SamplingState], None]
    ) -> None:
        """After every step; ``keep`` and ``show`` are called when their time has come, not for a finished sample."""
        now = time.monotonic()
        finished = state.filled == state.cells
        if state.filled <= self.skipped:
            self.began = now
        elif finished or now - self.printed >= self.TELL_EVERY_S:
            self.printed = now
            self.say(self.line(state, now))
        if finished:
            return
        if now - self.kept >= self.config.save_every_s:
            keep(state)
            self.kept = now
        if self.config.preview_every_s is not None and now - self.shown >= self.config.preview_every_s:
            show(state)
            self.shown = now

    def line(self, state: SamplingState, now: float) -> str:
        """Codes a second of all images together, and the time that is left."""
        together = len(state.codes)
        pace = (state.filled - self.skipped) * together / max(now - self.began, 1e-9)
        left = (state.cells - state.filled) * together / pace
        done, of = state.filled * together, state.cells * together
        return f"{done}/{of} codes  {pace:.0f} codes/s  left {left:.0f} s"
