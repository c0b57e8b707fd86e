"""What a prior may be conditioned on an image. A new kind is a file here and a name in ``SingleConditionConfig``."""

from dataclasses import dataclass
from typing import Literal

from .base import WHOLE_IMAGE, Condition, CropLocation, Fields, WindowLocations
from .caption import CaptionConfig
from .code_map import CodeMapConfig
from .composite import Composite
from .crop_position import CoordinateFeaturesConfig, CoordinatesConfig
from .low_resolution import LowResolutionConfig
from .objects import ObjectsConfig
from .whole_image import ClassConfig, TextConfig, UnconditionalConfig

SingleConditionConfig = (
    UnconditionalConfig
    | ClassConfig
    | TextConfig
    | CaptionConfig
    | CodeMapConfig
    | LowResolutionConfig
    | CoordinatesConfig
    | CoordinateFeaturesConfig
    | ObjectsConfig
)


@dataclass(frozen=True)
class CompositeConfig:
    """Several conditions at once, in this order."""

    kind: Literal["composite"] = "composite"
    conditions: tuple[SingleConditionConfig, ...] = ()

    def __post_init__(self) -> None:
        if len(self.conditions) < 2:
            raise ValueError(
                f"conditions must name at least two conditions, got {len(self.conditions)}; name a single one directly"
            )

    def build(self, width: int, window: tuple[int, int]) -> Composite:
        """The condition of a prior with ``width`` channels that is trained on ``window`` codes."""
        return Composite([part.build(width, window) for part in self.conditions], window)


ConditionConfig = SingleConditionConfig | CompositeConfig

__all__ = [
    "WHOLE_IMAGE",
    "CaptionConfig",
    "ClassConfig",
    "CodeMapConfig",
    "Composite",
    "CompositeConfig",
    "Condition",
    "ConditionConfig",
    "CoordinateFeaturesConfig",
    "CoordinatesConfig",
    "CropLocation",
    "Fields",
    "LowResolutionConfig",
    "ObjectsConfig",
    "SingleConditionConfig",
    "TextConfig",
    "UnconditionalConfig",
    "WindowLocations",
]
