"""How codes are drawn from a prior's logits, and in which manner a grid is sampled."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..bounds import Count, Positive, PositiveShare, Weight, Width, Within, check_ranges

Temperature = Annotated[float, Within(1e-4, 1e4)]  # logits divided by less are no numbers any more in float32


@dataclass(frozen=True)
class GuidanceConfig:
    """Classifier-free guidance, Ho and Salimans 2022: logits = absent + scale * (conditioned - absent).

    ``linear`` and ``cosine`` let the scale grow from 1 at the first code to ``scale`` at the last one; ``cosine``
    follows (1 - cos(pi * t ** power)) / 2 (the power-cosine schedule of Gao et al. 2023).
    """

    scale: Weight = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    power: Positive = 1.0  # of the cosine

    def __post_init__(self) -> None:
        if self.scale < 0 or self.power <= 0:
            raise ValueError(
                f"guidance needs scale >= 0 and power > 0, got scale {self.scale} and power {self.power}; "
                "scale 1 means no guidance"
            )
        check_ranges(self)

    def scales(self, codes: int) -> Tensor:
        """(codes,) float64: the scale for each of so many codes, in the order in which they are sampled."""
        if self.schedule == "constant":
            return torch.full((codes,), self.scale, dtype=torch.float64)
        progress = torch.arange(codes, dtype=torch.float64) / max(codes - 1, 1)
        share = progress if self.schedule == "linear" else (1 - (math.pi * progress**self.power).cos()) / 2
        return 1 + (self.scale - 1) * share


@dataclass(frozen=True)
class SamplingConfig:
    """How a grid is sampled.

    ``serial`` samples code after code, ``wavefront`` all codes at once whose past is complete; both sample the same
    codes. Grids as large as the window are sampled whole, with one cache, in either.
    """

    temperature: Temperature = 1.0
    top_k: Count | None = None  # only the k most likely codes; ties with the k-th are kept
    top_p: PositiveShare | None = None  # the fewest most likely codes that hold this probability
    greedy: bool = False  # always the most likely code
    guidance: GuidanceConfig = GuidanceConfig()
    mode: Literal["serial", "wavefront"] = "wavefront"
    stride: Width = 1  # codes of a row that share one window; 1 is exact
    scene_windows: bool = False  # windows of large grids begin one code later, as in the published script for scenes
    lanes: Width = 1  # windows that share one forward; part of the arithmetic, so part of what gives the same bits
    prefill: Width = 1  # windows read anew in one forward, a divisor of lanes; 1 suits CPUs, more suits GPUs

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"temperature must be above 0, got {self.temperature}; greedy: true takes the likeliest code"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}; leave it out to keep every code")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}; leave it out to keep every code")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")
        if self.lanes < 1 or self.prefill < 1 or self.lanes % self.prefill:
            raise ValueError(f"prefill (={self.prefill}) must be at least 1 and divide lanes (={self.lanes})")
        check_ranges(self)
