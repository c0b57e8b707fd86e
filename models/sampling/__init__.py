"""Painting grids of codes with a prior: draws, windows, wavefronts."""

from ..priors.decoding import Cell, Decoder, Logits, Request, window_start
from .best_of import Judge, best, likelihood, recognised
from .config import GuidanceConfig, SamplingConfig
from .sampler import UNKNOWN, Painting, paint, sample
from .scoring import score

__all__ = [
    "UNKNOWN",
    "Cell",
    "Decoder",
    "GuidanceConfig",
    "Judge",
    "Logits",
    "Painting",
    "Request",
    "SamplingConfig",
    "best",
    "likelihood",
    "paint",
    "recognised",
    "sample",
    "score",
    "window_start",
]
