"""The priors. A new one is a file beside this one and a name in the union."""

from .editor import Editor, EditorConfig
from .gpt import GPT, GPTConfig
from .neighborhood import NeighborhoodConfig, NeighborhoodPrior
from .pixelsnail import PixelSNAIL, PixelSNAILConfig

PriorConfig = GPTConfig | NeighborhoodConfig | PixelSNAILConfig | EditorConfig

__all__ = [
    "GPT",
    "Editor",
    "EditorConfig",
    "GPTConfig",
    "NeighborhoodConfig",
    "NeighborhoodPrior",
    "PixelSNAIL",
    "PixelSNAILConfig",
    "PriorConfig",
]
