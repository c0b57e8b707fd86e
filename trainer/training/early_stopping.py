"""Ending a run when its validation loss has stopped falling, with the weights that were best."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...models.bounds import Count, check_ranges


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Priors learn small sets by heart: the best validation likelihood may lie long before the last step."""

    patience: Count = 10  # evaluations in a row that are not better than the best

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 evaluation, got {self.patience}; leave early_stopping out")
        check_ranges(self)


class EarlyStopping:
    """Remembers the best evaluation of a run. Alike on all ranks, which see the same losses.

    Attributes:
        weights: what this rank held of the averaged weights at the best evaluation, on the host; empty before it.
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.config = config
        self.best = math.inf
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether the run has waited long enough."""
        return self.waited >= self.config.patience

    def update(self, loss: float, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Note one evaluation; the weights are asked for only when it is the best."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.weights = {name: value.detach().cpu().clone() for name, value in weights().items()}
        else:
            self.waited += 1

    def state_dict(self) -> dict[str, Any]:
        """What this rank must find again after a restart."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.best, self.waited = state["best"], state["waited"]
        self.weights = {name: value.cpu() for name, value in state["weights"].items()}
