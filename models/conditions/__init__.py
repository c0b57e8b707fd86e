"""What a prior may be told about a picture. A new kind is a file here and a name in ``SingleConditionConfig``."""

from dataclasses import dataclass
from typing import Literal

from .base import NOWHERE, Condition, Fields, Place
from .code_map import CodeMapConfig
from .composite import Several
from .crop_position import CoordinateFeaturesConfig, CoordinatesConfig
from .low_resolution import LowResolutionConfig
from .objects import ObjectsConfig
from .whole_image import ClassConfig, TextConfig, UnconditionalConfig

SingleConditionConfig = (
    UnconditionalConfig
    | ClassConfig
    | TextConfig
    | CodeMapConfig
    | LowResolutionConfig
    | CoordinatesConfig
    | CoordinateFeaturesConfig
    | ObjectsConfig
)


@dataclass(frozen=True)
class SeveralConfig:
    """Several conditions at once, in this order."""

    kind: Literal["several"] = "several"
    parts: tuple[SingleConditionConfig, ...] = ()

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise ValueError(
                f"parts must name at least two conditions, got {len(self.parts)}; name a single one directly"
            )

    def build(self, width: int, window: tuple[int, int]) -> Several:
        """The condition of a prior with ``width`` channels that is trained on ``window`` codes."""
        return Several([part.build(width, window) for part in self.parts], window)


ConditionConfig = SingleConditionConfig | SeveralConfig

__all__ = [
    "NOWHERE",
    "ClassConfig",
    "CodeMapConfig",
    "Condition",
    "ConditionConfig",
    "CoordinateFeaturesConfig",
    "CoordinatesConfig",
    "Fields",
    "LowResolutionConfig",
    "ObjectsConfig",
    "Place",
    "Several",
    "SeveralConfig",
    "SingleConditionConfig",
    "TextConfig",
    "UnconditionalConfig",
]
