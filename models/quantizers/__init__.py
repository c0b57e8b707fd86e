"""The quantizers. To add one: its config and class in a file here, and its name in the union below."""

from .base import Observed, Quantized, Quantizer
from .cosine import CosineConfig
from .entropy import EntropyConfig
from .finite_scalar import FSQConfig
from .gumbel import GumbelConfig
from .index_backpropagation import IBQConfig
from .lookup_free import LFQConfig
from .moving_average import EMAConfig
from .projected import SimVQConfig
from .usage import RollingUse, perplexity, usage
from .vector import VQConfig

QuantizerConfig = VQConfig | EMAConfig | GumbelConfig | CosineConfig | FSQConfig | LFQConfig | SimVQConfig | IBQConfig

__all__ = [
    "CosineConfig",
    "EMAConfig",
    "EntropyConfig",
    "FSQConfig",
    "GumbelConfig",
    "IBQConfig",
    "LFQConfig",
    "Observed",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "RollingUse",
    "SimVQConfig",
    "VQConfig",
    "perplexity",
    "usage",
]
