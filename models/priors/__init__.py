"""The priors. A new one is a file beside this one and a name in the union."""

from .editor import Editor, EditorConfig
from .gpt import GPT, GPTConfig
from .neighborhood import NeighborhoodConfig, NeighborhoodPrior

PriorConfig = GPTConfig | NeighborhoodConfig | EditorConfig

__all__ = ["GPT", "Editor", "EditorConfig", "GPTConfig", "NeighborhoodConfig", "NeighborhoodPrior", "PriorConfig"]
