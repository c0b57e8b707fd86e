"""Painting grids of codes with a prior: draws, windows, wavefronts."""

from .config import GuidanceConfig, SamplingConfig
from .decoder import Decoder, Logits, Request
from .painting import UNKNOWN, Painting, paint, sample
from .ranking import Judge, best, likelihood, recognised
from .schedule import Cell, window_start
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
