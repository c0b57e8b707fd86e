"""What watches a run of stage 1: numbers that are not finite, a discriminator that has won, a weight at its clamp, a
codebook that collapsed.

Every decision is taken from values that are the same on all ranks, and everything it rests on is in the checkpoint.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...models.bounds import Count, Share, check_ranges
from ..distributed import ranks

SHOWN = 64  # keys of a skipped step that are named


@dataclass(frozen=True)
class MonitorsConfig:
    """From when on something is wrong, and what is done about it besides saying so."""

    check_every: Count = 50  # steps between two looks
    max_skipped_steps: Count = (
        10  # steps in a row that may be skipped for numbers that are not finite before the run stops
    )
    usage_window: Count = 200  # steps over which the use of the codebook is measured
    freeze_above_accuracy: Share = 0.99  # share of right logits from which on the discriminator has won
    unfreeze_below_accuracy: Share = 0.9  # share of right logits at which a frozen discriminator learns again
    max_clamped_fraction: Share = 0.5  # share of adaptive weights at their clamp that is too much
    min_codebook_usage: Share = 0.02  # share of codes chosen within the window below which the codebook has collapsed
    on_discriminator_won: Literal["alert", "freeze"] = (
        "alert"  # freeze: the discriminator stops learning until ``unfreeze_below_accuracy``
    )
    on_clamped_weight: Literal["alert", "freeze"] = "alert"  # freeze: until fewer weights are at their clamp
    on_codebook_collapse: Literal["alert", "replace"] = (
        "alert"  # revive: idle codes are moved onto features at every look
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.unfreeze_below_accuracy > self.freeze_above_accuracy:
            raise ValueError(
                "unfreeze_below_accuracy must not be above freeze_above_accuracy, "
                f"got {self.unfreeze_below_accuracy} and {self.freeze_above_accuracy}"
            )


class DivergedError(RuntimeError):
    """Too many steps in a row had numbers that are not finite. The same on all ranks."""


class MonitorDecision(NamedTuple):
    """What a look asks for, the same on all ranks."""

    freeze: bool  # the discriminator, until another look thaws it
    replace_dead_codes: bool  # idle codes, once


class TrainingMonitors:
    """Watches one run. Every rank makes one and calls the same methods at the same steps."""

    WATCHED = ("discriminator_accuracy", "clamped")

    def __init__(self, config: MonitorsConfig) -> None:
        self.config = config
        self.alerts: dict[str, str] = {}  # those that hold, by name, with what they say
        self._frozen = False
        self._skipped = 0  # steps in a row
        self._taken = 0  # steps since the run began
        self._sums: dict[str, Tensor] = {}  # of watched scalars since the last look, (2,): sum and count

    def record_skip(self, step: int, where: Sequence[str], keys: Sequence[str]) -> None:
        """Note a step that was not taken, because a gradient of these networks was not finite.

        Args:
            keys: of this rank's samples that are to blame, if any are.

        Raises:
            DivergedError: it is one too many.
        """
        blamed = [key for part in ranks.all_gather_object(list(keys)) for key in part]
        self._skipped += 1
        named = ", ".join(blamed[:SHOWN]) + (f" and {len(blamed) - SHOWN} more" if len(blamed) > SHOWN else "")
        named = named or "none stands out"
        _say(f"step {step} skipped: numbers that are not finite in the {' and '.join(where)}; samples: {named}")
        if self._skipped >= self.config.max_skipped_steps:
            raise DivergedError(
                f"{self._skipped} steps in a row, up to step {step}, were skipped for numbers that are not finite. "
                f"The weights are those before them. Look at the samples named above; lower the learning rates or set "
                f"grad_clip for the {' and '.join(where)}, in another folder or with --fresh"
            )

    def record(self, scalars: Mapping[str, Tensor]) -> None:
        """Note a step that was taken, by its scalars; nothing waits for the device."""
        self._skipped = 0
        self._taken += 1
        for name in self.WATCHED:
            if name in scalars:
                value = scalars[name].detach().float()
                pair = torch.stack([value, torch.ones_like(value)])
                self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def check(self, step: int, usage: Tensor) -> MonitorDecision:
        """Every so many steps, decide. Between looks what was frozen stays so, and nothing is revived.

        Args:
            usage: () share of the codes that were chosen in the window, the same on all ranks.
        """
        config = self.config
        if (step + 1) % config.check_every:
            return MonitorDecision(self._frozen, replace_dead_codes=False)
        means = self._means()
        accuracy, clamped = means.get("discriminator_accuracy"), means.get("clamped", 0.0)
        used = usage.item() if self._taken >= config.usage_window else 1.0
        won = accuracy is not None and accuracy > config.freeze_above_accuracy
        pinned, collapsed = clamped > config.max_clamped_fraction, used < config.min_codebook_usage
        self._raise(step, {
            "discriminator_won": f"the discriminator is right in {accuracy or 0:.1%} of its logits" if won else "",
            "weight_at_clamp": f"{clamped:.0%} of adaptive weights are at their clamp" if pinned else "",
            "codebook_collapsed": f"{used:.1%} of the codes are in use" if collapsed else "",
        })  # fmt: skip
        holds = config.unfreeze_below_accuracy if self._frozen else config.freeze_above_accuracy
        strong = config.on_discriminator_won == "freeze" and accuracy is not None and accuracy > holds
        self._frozen = strong or (config.on_clamped_weight == "freeze" and pinned)
        return MonitorDecision(self._frozen, collapsed and config.on_codebook_collapse == "replace")

    def scalars(self) -> dict[str, Tensor]:
        """A 1 for every alert that holds."""
        return {f"alert_{name}": torch.ones((), device=ranks.device()) for name in self.alerts}

    def state_dict(self) -> dict[str, Any]:
        return {
            "alerts": dict(self.alerts),
            "frozen": self._frozen,
            "skipped": self._skipped,
            "taken": self._taken,
            "sums": dict(self._sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.alerts = dict(state["alerts"])
        self._frozen, self._skipped, self._taken = state["frozen"], state["skipped"], state["taken"]
        self._sums = dict(state["sums"])

    def _means(self) -> dict[str, float]:
        """Of everything watched since the last look, over steps and ranks."""
        means = ranks.all_reduce_metrics({name: pair[0] / pair[1] for name, pair in self._sums.items()})
        self._sums.clear()
        return means

    def _raise(self, step: int, found: Mapping[str, str]) -> None:
        """Say which alerts begin and which are over."""
        for name, message in found.items():
            if message and name not in self.alerts:
                _say(f"ALERT at step {step + 1}: {message} ({name}); see docs/training.md")
            elif not message and name in self.alerts:
                _say(f"step {step + 1}: {name} is over")
        self.alerts = {name: message for name, message in found.items() if message}


def _say(line: str) -> None:
    if ranks.rank() == 0:
        print(line, file=sys.stderr, flush=True)
