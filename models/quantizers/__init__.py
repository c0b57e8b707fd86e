"""The quantizers. To add one: its config and class in a file here, and its name in the union below."""

from .base import CodeStatistics, Quantizer, QuantizerOutput
from .cosine import CosineConfig
from .ema import EMAConfig
from .entropy import EntropyConfig
from .fsq import FSQConfig
from .gumbel import GumbelConfig
from .ibq import IBQConfig
from .lfq import LFQConfig
from .simvq import SimVQConfig
from .usage import RollingUse, perplexity, usage
from .vq import VQConfig

QuantizerConfig = VQConfig | EMAConfig | GumbelConfig | CosineConfig | FSQConfig | LFQConfig | SimVQConfig | IBQConfig

__all__ = [
    "CodeStatistics",
    "CosineConfig",
    "EMAConfig",
    "EntropyConfig",
    "FSQConfig",
    "GumbelConfig",
    "IBQConfig",
    "LFQConfig",
    "Quantizer",
    "QuantizerConfig",
    "QuantizerOutput",
    "RollingUse",
    "SimVQConfig",
    "VQConfig",
    "perplexity",
    "usage",
]
