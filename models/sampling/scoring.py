"""How likely a prior finds codes that are known, window by window, as it would sample them."""

import numpy as np
import torch
from torch import Tensor

from ..conditions import Fields
from ..priors.base import Prior
from ..priors.decoding import DecodingRequest
from .config import SamplingConfig
from .sampler import listed, steps


@torch.no_grad()
def score(prior: Prior, fields: Fields, codes: Tensor, config: SamplingConfig) -> Tensor:
    """The log-likelihood of every code of whole grids, each from the window or neighborhood it would be sampled from.

    This is the measure by which strides and priors of different kinds compare on large grids: its negative mean over
    ln 2 is bits per code. Of the config only the manner of sampling counts, not how codes are drawn; with guidance the
    forwards have the shape that they had in sampling, so that the same bits come.

    Args:
        prior: in evaluation mode.
        fields: what its condition reads, for the whole images, B rows each.
        codes: (B, H, W) int64.
        config: stride, mode and lanes.

    Returns:
        (B, H, W) float32, in nats.
    """
    request = DecodingRequest(fields, (codes.shape[1], codes.shape[2]), tuple(range(len(codes))), config)
    decoder = prior.decoder(request)
    scores = torch.zeros(codes.shape, device=codes.device)
    for step in steps(decoder, request, config.mode, np.zeros(request.size, dtype=bool)):
        rows, columns = torch.from_numpy(step.T)
        wanted = codes[:, rows, columns].t().flatten()
        for _ in decoder.prepare(codes, listed(step)):
            pass
        found = decoder.logits(codes, listed(step)).conditioned.log_softmax(dim=1).gather(1, wanted[:, None])
        scores[:, rows, columns] = found.view(len(step), len(codes)).t()
    return scores
