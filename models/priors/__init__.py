"""The priors. A new one is a file beside this one and a name in the union."""

from .gpt import GPT, GPTConfig
from .neighborhood import NeighborhoodConfig, NeighborhoodPrior

PriorConfig = GPTConfig | NeighborhoodConfig

__all__ = ["GPT", "GPTConfig", "NeighborhoodConfig", "NeighborhoodPrior", "PriorConfig"]
