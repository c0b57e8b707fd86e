"""The priors. A new one is a file beside this one and a name in the union."""

from .gpt import GPT, GPTConfig
from .neighborhood import NeighbourhoodConfig, NeighbourhoodPrior

PriorConfig = GPTConfig | NeighbourhoodConfig

__all__ = ["GPT", "GPTConfig", "NeighbourhoodConfig", "NeighbourhoodPrior", "PriorConfig"]
