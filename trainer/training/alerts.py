"""Alerts that every run has, whatever it trains: numbers that are not finite, a slow loader, a slow rank.

Those of stage 1 are its monitors'. An alert that holds is ``train/alert_NAME`` in the metrics.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SLOW = 0.2  # share of its time that a rank waits for data, or that it waits longer than the others
PREFIX = "alert_"
OWN = {"not_finite", "slow_loader", "slow_rank"}


class Changes(NamedTuple):
    """What is new at a line."""

    begun: dict[str, str]  # alerts by name, each with what it says
    over: list[str]  # of those found here: the monitors say of theirs when they are over


class RunAlerts:
    """The alerts of one run, on rank 0, line by line.

    Args:
        hosts: of each rank.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._slow: set[str] = set()  # at the line before: one slow line alone is no alert
        self._holding: set[str] = set()

    def found(self, values: Mapping[str, float], data_wait: Sequence[float]) -> dict[str, str]:
        """What holds at a line, by name, with what it says.

        Args:
            values: of the line.
            data_wait: the share of its time that each rank has waited for its batches.
        """
        slow = self._found_slow(data_wait)
        held = {name: said for name, said in slow.items() if name in self._slow}
        self._slow = set(slow)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if values.get("skipped", 0.0) > 0:
            held["not_finite"] = "steps were skipped for gradients that are not finite"
        elif bad:
            held["not_finite"] = f"not finite: {', '.join(bad)}"
        return held

    def _found_slow(self, data_wait: Sequence[float]) -> dict[str, str]:
        middle, most = statistics.median(data_wait), max(range(len(data_wait)), key=data_wait.__getitem__)
        if middle > SLOW:
            return {"slow_loader": f"ranks wait {middle:.0%} of their time for data; raise train_data.num_workers"}
        if data_wait[most] - middle > SLOW:
            said = f"rank {most} on {self._hosts[most]} waits {data_wait[most]:.0%} of its time for data"
            return {"slow_rank": f"{said}, the median rank {middle:.0%}"}
        return {}

    def changes(self, own: Mapping[str, str], values: Mapping[str, float]) -> Changes:
        """What begins and what is over at a line, those of the monitors too.

        Args:
            own: of ``found``.
            values: of the line, in which ``alert_NAME`` is there for each alert of the monitors.
        """
        watched = {name.removeprefix(PREFIX): name.removeprefix(PREFIX).replace("_", " ") for name in values
                   if name.startswith(PREFIX)}  # fmt: skip
        holding = watched | dict(own)
        begun = {name: said for name, said in holding.items() if name not in self._holding}
        over = sorted((self._holding & OWN) - set(holding))
        self._holding = set(holding)
        return Changes(begun, over)
