"""The optimizer's section: AdamW, its schedule, and the rule that makes a learning rate out of the batch."""

import math
from dataclasses import dataclass
from typing import Literal

from ...models.bounds import Decay, Natural, Positive, PositiveShare, Share, Weight, check_ranges

HIGHEST = 5e-3
"""A learning rate above this has never trained a network of ours with AdamW at its usual betas."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019); with ``weight_decay: 0`` it is Adam. Biases and norms do not decay.

    ``lr_scaling: linear`` is the published rule: ``learning_rate`` is that of one sample, and is multiplied by the
    global batch, which counts accumulation and every rank of every node.
    """

    learning_rate: Positive
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Weight = 0.0
    lr_scaling: Literal["fixed", "linear"] = "fixed"
    schedule: Literal["constant", "cosine", "wsd"] = "constant"  # wsd: warm up, stay, decay linearly
    warmup_steps: Natural = 0  # in steps, linear from 0
    decay_fraction: PositiveShare = 0.2  # share of all steps over which wsd decays, at the end
    min_lr_ratio: Share = 0.0  # share of the learning rate left at the last step of cosine and wsd

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.learning_rate > 0.1:
            raise ValueError(f"learning_rate must be in (0, 0.1], got {self.learning_rate}")

    def peak(self, batch: int) -> float:
        """The learning rate before its schedule, for a global batch of so many samples.

        Raises:
            ValueError: the linear rule leads to one that cannot train.
        """
        if self.lr_scaling == "fixed":
            return self.learning_rate
        peak = self.learning_rate * batch
        if peak > HIGHEST:
            raise ValueError(
                f"lr_scaling: linear makes a learning rate of {peak:.3g} out of {self.learning_rate} x a global batch "
                f"of {batch}, and above {HIGHEST} nothing learns; lower learning_rate, or set lr_scaling: fixed and "
                "name the learning rate itself"
            )
        return peak

    def rate(self, step: int, steps: int, batch: int = 1) -> float:
        """The learning rate of a step: a function of the step alone, so that a resume needs no state of it.

        Args:
            step: 0 to steps - 1.
            steps: of the whole run.
            batch: samples of a global batch, which the linear rule asks for.
        """
        peak = self.peak(batch)
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return peak
        if self.schedule == "wsd":
            length = max(1.0, self.decay_fraction * steps)
            return peak * (self.min_lr_ratio + (1 - self.min_lr_ratio) * min(1.0, (steps - step) / length))
        done = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        return peak * (self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done)))
