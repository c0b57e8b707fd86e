"""smalti: image tokenizers and autoregressive image priors, trained at any scale under DeepSpeed.

The names below are imported when they are first used, so that ``import smalti`` takes no time: neither torch nor
DeepSpeed comes with it, and DeepSpeed comes with none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models.priors.gpt import GPT as GPT
    from .models.priors.gpt import GPTConfig as GPTConfig
    from .models.quantizers.base import Quantizer as Quantizer
    from .models.quantizers.base import QuantizerOutput as QuantizerOutput
    from .models.quantizers.cosine import CosineConfig as CosineConfig
    from .models.quantizers.cosine import CosineQuantizer as CosineQuantizer
    from .models.quantizers.ema import EMAConfig as EMAConfig
    from .models.quantizers.ema import EMAQuantizer as EMAQuantizer
    from .models.quantizers.fsq import FiniteScalarQuantizer as FiniteScalarQuantizer
    from .models.quantizers.fsq import FSQConfig as FSQConfig
    from .models.quantizers.gumbel import GumbelConfig as GumbelConfig
    from .models.quantizers.gumbel import GumbelQuantizer as GumbelQuantizer
    from .models.quantizers.ibq import IBQConfig as IBQConfig
    from .models.quantizers.ibq import IndexBackpropagationQuantizer as IndexBackpropagationQuantizer
    from .models.quantizers.lfq import LFQConfig as LFQConfig
    from .models.quantizers.lfq import LookupFreeQuantizer as LookupFreeQuantizer
    from .models.quantizers.simvq import ProjectedQuantizer as ProjectedQuantizer
    from .models.quantizers.simvq import SimVQConfig as SimVQConfig
    from .models.quantizers.vq import VectorQuantizer as VectorQuantizer
    from .models.quantizers.vq import VQConfig as VQConfig
    from .models.sampling.config import SamplingConfig as SamplingConfig
    from .models.vqgan.autoencoder import VQGAN as VQGAN
    from .models.vqgan.autoencoder import VQGANConfig as VQGANConfig
    from .trainer.checkpoint.loading import LoadedPrior as LoadedPrior
    from .trainer.checkpoint.loading import LoadedTokenizer as LoadedTokenizer
    from .trainer.checkpoint.loading import load_prior as load_prior
    from .trainer.checkpoint.loading import load_tokenizer as load_tokenizer
    from .trainer.checkpoint.pretrained import from_pretrained as from_pretrained
    from .trainer.data.config import DataConfig as DataConfig
    from .trainer.data.stream import Stream as Stream
    from .trainer.sampling.codes import sample as sample

__version__ = "0.1.0"

_MODULES = {
    "models.priors.gpt": ("GPT", "GPTConfig"),
    "models.quantizers.base": ("Quantizer", "QuantizerOutput"),
    "models.quantizers.cosine": ("CosineConfig", "CosineQuantizer"),
    "models.quantizers.ema": ("EMAConfig", "EMAQuantizer"),
    "models.quantizers.fsq": ("FSQConfig", "FiniteScalarQuantizer"),
    "models.quantizers.gumbel": ("GumbelConfig", "GumbelQuantizer"),
    "models.quantizers.ibq": ("IBQConfig", "IndexBackpropagationQuantizer"),
    "models.quantizers.lfq": ("LFQConfig", "LookupFreeQuantizer"),
    "models.quantizers.simvq": ("ProjectedQuantizer", "SimVQConfig"),
    "models.quantizers.vq": ("VQConfig", "VectorQuantizer"),
    "models.sampling.config": ("SamplingConfig",),
    "models.vqgan.autoencoder": ("VQGAN", "VQGANConfig"),
    "trainer.checkpoint.loading": ("LoadedPrior", "LoadedTokenizer", "load_prior", "load_tokenizer"),
    "trainer.data.config": ("DataConfig",),
    "trainer.data.stream": ("Stream",),
    "trainer.checkpoint.pretrained": ("from_pretrained",),
    "trainer.sampling.codes": ("sample",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # a type checker would take it for a promise that every name is there

    def __getattr__(name: str) -> object:
        """Import a public name from its module (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
        value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return value
