"""Sampling grids of codes with a prior: draws, windows, wavefronts."""

from ..priors.decoding import Cell, Decoder, DecodingRequest, Draw, Schedule, window_start
from .best_of import Scorer, best_of, class_log_likelihood, classifier_score, likelihood
from .config import GuidanceConfig, SamplingConfig
from .sampler import UNFILLED, GridRequest, SamplingState, sample, sample_steps
from .scoring import score

__all__ = [
    "UNFILLED",
    "Cell",
    "Decoder",
    "DecodingRequest",
    "Draw",
    "GridRequest",
    "GuidanceConfig",
    "SamplingConfig",
    "SamplingState",
    "Schedule",
    "Scorer",
    "best_of",
    "class_log_likelihood",
    "classifier_score",
    "likelihood",
    "sample",
    "sample_steps",
    "score",
    "window_start",
]
