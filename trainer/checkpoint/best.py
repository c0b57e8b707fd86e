"""The checkpoints with the best validation figures, which stay beside the newest.

Each checkpoint's manifest holds the figures of the evaluation at its step, so that the disk alone says which ones
are best, to a later start and to an export.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...models.bounds import Count, Name, check_ranges
from . import storage
from .storage import CheckpointInfo

FIGURES = "val"  # in a manifest: the figures of the evaluation at its step


@dataclass(frozen=True)
class KeepBestConfig:
    """Which checkpoints stay for their validation figures; each evaluation that is among the best is saved.

    Attributes:
        metric: one of the figures of validation, without ``val/``: ``lpips_loss``, ``psnr``, ``nll``, ...
        mode: whether the smallest or the largest is best.
        count: how many stay.
    """

    metric: Name
    mode: Literal["min", "max"] = "min"
    count: Count = 1

    def __post_init__(self) -> None:
        check_ranges(self)

    def value(self, figures: Mapping[str, float]) -> float:
        """The metric of some figures, turned so that less is better; infinite where it is not a number.

        Raises:
            ValueError: the figures have no such metric.
        """
        if self.metric not in figures:
            raise ValueError(f"keep_best.metric must be one of {', '.join(sorted(figures))}, got {self.metric}")
        value = float(figures[self.metric])
        return math.inf if math.isnan(value) else value if self.mode == "min" else -value

    def best(self, values: Mapping[int, float]) -> list[int]:
        """The steps of the best of some values, the best first; of equal ones the earlier is better."""
        finite = [(value, step) for step, value in values.items() if value < math.inf]
        return [step for _, step in sorted(finite)[: self.count]]


def values_of(found: Sequence[CheckpointInfo], config: KeepBestConfig) -> dict[int, float]:
    """The metric of each checkpoint that has one, by its step; what cannot be read has none."""
    values = {}
    for each in found:
        try:
            figures = storage.manifest_of(each.folder).get(FIGURES) or {}
        except (OSError, ValueError):
            continue
        if config.metric in figures:
            values[each.step] = config.value(figures)
    return values


def best_checkpoint(run: Path) -> Path:
    """The folder of a run's best whole checkpoint, by the ``keep_best`` of its config.

    Raises:
        ValueError: the run keeps none, or none is whole.
    """
    newest = storage.latest_valid(run)
    manifest: dict[str, Any] = {} if newest is None else storage.manifest_of(newest.folder)
    said = manifest.get("config", {}).get("keep_best")
    if said is None:
        raise ValueError(f"{run} keeps no best checkpoint; set keep_best in its config, or take the newest")
    config = KeepBestConfig(**said)
    found = storage.list_checkpoints(run)
    folders = {each.step: each.folder for each in found}
    values = values_of(found, config)
    for step in KeepBestConfig(config.metric, config.mode, max(1, len(values))).best(values):
        if storage.verify(folders[step]) is None:
            return folders[step]
    raise ValueError(f"no whole checkpoint of {run} has the figure {config.metric}")
