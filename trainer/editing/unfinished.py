"""Candidates that are still being sampled, kept in files, so that an edit that is killed goes on where it was."""

import json
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...models.sampling import SamplingState
from ..sampling import partial


class UnfinishedCandidates:
    """What is sampled of the candidates of one edit, beside the files that they will be.

    Args:
        paths: of the candidates, in the order of their numbers.
        made: all that decides what they will be, beside their numbers.
        every_s: how much work a kill may cost.
    """

    def __init__(self, paths: Sequence[Path], made: Mapping[str, Any], every_s: float) -> None:
        self.paths, self.every_s = paths, every_s
        said = [json.dumps([dict(made), number], sort_keys=True) for number in range(len(paths))]
        self.digests = [sha256(each.encode()).hexdigest() for each in said]
        self.kept = time.monotonic()

    def before(self, size: tuple[int, int], codes: int) -> SamplingState | None:
        """What a killed edit had sampled, of grids of a size and so many codes."""
        return partial.find_all(self.paths, self.digests, size, codes)

    def look(self, state: SamplingState) -> None:
        """After every step; what is sampled is kept when its time has come, not for finished candidates."""
        now = time.monotonic()
        if state.filled < state.cells and now - self.kept >= self.every_s:
            partial.save_all(self.paths, self.digests, state)
            self.kept = now
