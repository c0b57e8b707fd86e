"""How likely a prior finds codes that are known, as it would sample them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditions import Fields
from ..priors.base import Prior
from ..priors.decoding import DecodingRequest, Schedule
from .config import SamplingConfig
from .logits import apply_guidance, filter_logits
from .sampler import guidance_scales, steps


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
    none = np.zeros(request.size, dtype=bool)
    schedule = Schedule(steps(decoder, request, config.mode, none), none, np.ones(codes.shape, dtype=bool))
    flat = F.pad(codes.flatten(), (0, 1))
    scores = torch.zeros(flat.shape, device=codes.device)

    def read(logits: Tensor, places: Tensor) -> None:
        wanted = flat.index_select(0, places)[:, None]
        scores.index_copy_(0, places, logits[0].float().log_softmax(dim=1).gather(1, wanted)[:, 0])

    for _ in decoder.run(flat, schedule, read):
        pass
    return scores[:-1].view(codes.shape)


@torch.no_grad()
def drawn_nats(prior: Prior, fields: Fields, codes: Tensor, logits: Tensor, config: SamplingConfig) -> Tensor:
    """The nats of the codes of whole windows under the distributions that sampling draws from.

    So guidance and temperature can be judged by known codes. Where top-k or top-p leave a code out it could never be
    drawn, and its nats are infinite.

    Args:
        prior: in evaluation mode.
        fields: what its condition reads.
        codes: (B, h, w) int64, the prior's window.
        logits: (B, h, w, K) of the prior for them, under the condition.
        config: how codes are drawn; not greedily.

    Returns:
        (B, h, w) float64.
    """
    scales, absent = None, None
    if config.guidance.scale != 1:
        dropped = torch.ones(len(codes), dtype=torch.bool, device=codes.device)
        absent = prior(codes, fields, dropped=dropped).logits
        decoder = prior.decoder(DecodingRequest(fields, prior.window, tuple(range(len(codes))), config))
        scales = guidance_scales(decoder, prior.window, config).to(codes.device)
    nats = []
    for number, window in enumerate(codes):  # one by one: float64 of all would be large
        drawn = logits[number].flatten(0, 1).float()
        if absent is not None and scales is not None:
            drawn = apply_guidance(drawn, absent[number].flatten(0, 1).float(), scales)
        nats.append(F.cross_entropy(filter_logits(drawn, config), window.flatten(), reduction="none"))
    return torch.stack(nats).view(codes.shape)
