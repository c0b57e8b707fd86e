"""Sampling grids of codes of any size with a prior.

Shapes: B images, (H, W) their grids, K codes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditions import Fields
from ..priors.base import Prior
from ..priors.decoding import Cells, Decoder, DecodingRequest, Schedule
from .config import SamplingConfig
from .gumbel_noise import cell_keys, gumbel
from .logits import apply_guidance, choose
from .wavefront import serial, wavefront

UNFILLED = -1
"""A code that is still to be sampled."""

LOOK_EVERY = 32
"""Steps after which the host looks whether a GPU has done those before them."""


class SamplingState(NamedTuple):
    """Grids that are being sampled. The tensors are the sampler's own and change with its next step."""

    codes: Tensor  # (B, H, W) int64, UNFILLED where not yet sampled
    scores: Tensor  # (B, H, W) float32: log-likelihood of every sampled code, in nats, 0 elsewhere
    filled: int  # cells passed so far
    cells: int  # cells to pass in all; priors with a rolling cache pass given ones too


class GridRequest(NamedTuple):
    """Grids to be sampled by a prior: all that decides their codes."""

    prior: Prior  # in evaluation mode
    fields: Fields  # what its condition reads, for the whole images, B rows each
    size: tuple[int, int]  # rows and columns of the grids
    image_ids: Sequence[int]  # the numbers of the B images; they key the randomness
    seed: int  # of all images
    config: SamplingConfig  # how to draw and in which manner to go
    known_codes: Tensor | None = None  # (B, H, W) int64, codes to keep; ``UNFILLED`` ones, by default all, are sampled
    lane_ids: Sequence[int] = ()  # of images of equal numbers: what decides their lanes, best each its own


def sample_steps(wanted: GridRequest, resume_from: SamplingState | None = None) -> Iterator[SamplingState]:
    """Sample step by step, so that a caller can look, save and stop in between.

    A code's randomness belongs to (seed, image's number, row, column). On one device with deterministic kernels the
    same codes come, bit for bit, whatever other images are sampled beside, in either mode, on whichever rank.
    That holds for a sample that goes on from where it was stopped too, even if that was in the other mode.

    Args:
        wanted: the grids.
        resume_from: what a sample of the same images had yielded when it was stopped; its codes are not drawn again.

    Yields:
        After every step of dependent codes, and before it where something must be read first, the state of the sample.

    Raises:
        KeyError: a field that the condition reads is missing.
        ValueError: the grid does not suit the prior, the prior is in training mode, or a tensor does not fit.
    """
    prior, config = wanted.prior, wanted.config
    if prior.training:
        raise ValueError("sampling needs the prior in evaluation mode; call prior.eval() before")
    shape = (len(wanted.image_ids), *wanted.size)
    device = next(prior.parameters()).device
    codes = torch.full(shape, UNFILLED, dtype=torch.int64, device=device)
    if wanted.known_codes is not None:
        _check(wanted.known_codes, shape, prior.codes, "known")
        codes = wanted.known_codes.to(device, torch.int64).clone()
    if resume_from is not None:
        _check(resume_from.codes, shape, prior.codes, "resumed")
    fields = _whole(prior, wanted.fields, len(wanted.image_ids))
    request = DecodingRequest(fields, wanted.size, tuple(wanted.image_ids), config, tuple(wanted.lane_ids))
    if request.guided:
        prior.check_guidance(fields)
    with torch.no_grad():
        decoder = prior.decoder(request)
    return _sample(decoder, request, config, codes, wanted.seed, resume_from)


def sample(
    wanted: GridRequest,
    progress: Callable[[SamplingState], None] | None = None,
    resume_from: SamplingState | None = None,
) -> SamplingState:
    """Sample to the end; see ``sample_steps``. ``progress`` is called after every step."""
    shape = (len(wanted.image_ids), *wanted.size)
    codes = torch.zeros(shape, dtype=torch.int64) if wanted.known_codes is None else wanted.known_codes
    state = SamplingState(codes, torch.zeros(shape), 0, 0)  # of a grid that is given whole
    for state in sample_steps(wanted, resume_from):
        if progress is not None:
            progress(state)
    return state


def _whole(prior: Prior, fields: Fields, batch: int) -> Fields:
    """The fields that the prior's condition reads, on the prior's device."""
    device = next(prior.parameters()).device
    names = [*prior.condition.fields, *(name for name in prior.condition.optional if name in fields)]
    wanted = {name: prior.condition.field(fields, name).to(device) for name in names}
    for name, field in wanted.items():
        if len(field) != batch:
            raise ValueError(f"the field {name!r} must have a row for each of {batch} images, got {len(field)}")
    return wanted


def _check(known_codes: Tensor, shape: tuple[int, ...], codes: int, name: str) -> None:
    if known_codes.shape != shape:
        raise ValueError(f"the {name} codes must be {shape} (images, rows, columns), got {tuple(known_codes.shape)}")
    if known_codes.min() < UNFILLED or known_codes.max() >= codes:
        raise ValueError(
            f"{name} codes must be {UNFILLED} (to be sampled) or in [0, {codes}), "
            f"got {int(known_codes.min())} to {int(known_codes.max())}"
        )


@torch.no_grad()
def _sample(
    decoder: Decoder,
    request: DecodingRequest,
    config: SamplingConfig,
    codes: Tensor,
    seed: int,
    resume_from: SamplingState | None,
) -> Iterator[SamplingState]:
    fixed = (codes != UNFILLED).cpu().numpy()
    scores = torch.zeros(codes.shape, device=codes.device)
    passed = _resumed(resume_from, codes, scores).numpy()
    known: npt.NDArray[np.bool_] = np.logical_and.reduce(fixed, axis=0)
    if decoder.reads_given:
        known = np.zeros_like(known)
    schedule = Schedule(steps(decoder, request, config.mode, known), passed, ~fixed)
    # One place more takes what is drawn in vain.
    flat_codes, flat_scores = (F.pad(grids.flatten(), (0, 1)) for grids in (codes, scores))
    state = SamplingState(flat_codes[:-1].view(codes.shape), flat_scores[:-1].view(codes.shape), 0, 0)
    draw = _Drawing(decoder, request, config, seed, flat_codes, flat_scores)
    filled = np.cumsum([0, *(len(step) for step in schedule.steps)]).tolist()
    pace = _Pace()
    for complete in decoder.run(flat_codes, schedule, draw):
        if flat_codes.is_cuda:
            pace.keep()
        yield state._replace(filled=filled[complete], cells=filled[-1])


class _Pace:
    """Keeps the host at most 2 x LOOK_EVERY steps ahead of a GPU, so that what it tells of them is nearly true."""

    def __init__(self) -> None:
        self._steps = 0
        self._before: torch.cuda.Event | None = None

    def keep(self) -> None:
        """After every step; waits where the GPU has not done those up to the look before."""
        self._steps += 1
        if self._steps % LOOK_EVERY:
            return
        if self._before is not None:
            self._before.synchronize()
        self._before = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._before.record()


def _resumed(stopped: SamplingState | None, codes: Tensor, scores: Tensor) -> Tensor:
    """Write to the codes and the scores what was sampled before; the (H, W) cells that all images have of it."""
    if stopped is None:
        return torch.zeros(codes.shape[1:], dtype=torch.bool)
    done = stopped.codes.to(codes.device)
    fresh = (done != UNFILLED).all(dim=0)
    codes[:, fresh] = done[:, fresh]
    scores[:, fresh] = stopped.scores.to(scores.device)[:, fresh]
    return fresh.cpu()


def steps(decoder: Decoder, request: DecodingRequest, mode: str, known: npt.NDArray[np.bool_]) -> list[Cells]:
    """The cells that are not known, in a mode: (n, 2) rows and columns of those that can be predicted together."""
    if mode == "serial" or decoder.rows_at_once == 1:
        return serial(decoder.order, known)
    reach = np.array([decoder.reach(column) for column in range(request.size[1])])
    return wavefront(known, decoder.rows_at_once, reach, decoder.barriers)


def guidance_scales(decoder: Decoder, size: tuple[int, int], config: SamplingConfig) -> Tensor:
    """(H * W,) float32 on the CPU: the scale of guidance for each cell of a grid of (H, W), by its raster number."""
    ranked = torch.tensor([row * size[1] + column for row, column in decoder.order])
    scales = config.guidance.scales(len(ranked)).float()
    return torch.zeros(len(ranked)).scatter(0, ranked, scales)


class _Drawing:
    """Draws codes from logits and writes them, on the device alone; see ``Draw``.

    Keys of the noise and scales of guidance are tables over all grids.
    """

    def __init__(
        self,
        decoder: Decoder,
        request: DecodingRequest,
        config: SamplingConfig,
        seed: int,
        codes: Tensor,  # (B * H * W + 1,) with a spare one
        scores: Tensor,  # alike
    ) -> None:
        self.config, self.codes, self.scores = config, codes, scores
        self.keys = F.pad(cell_keys(seed, request.image_ids, request.size, codes.device).flatten(), (0, 1))
        scales = guidance_scales(decoder, request.size, config).repeat(len(request.image_ids))
        self.scales = F.pad(scales, (0, 1)).to(codes.device)

    def __call__(self, logits: Tensor, places: Tensor) -> None:
        combined = conditioned = logits[0].float()
        if len(logits) > 1:
            combined = apply_guidance(conditioned, logits[1].float(), self.scales.index_select(0, places))
        noise = None if self.config.greedy else gumbel(self.keys.index_select(0, places), combined.shape[1])
        chosen = choose(combined, noise, self.config)
        self.codes.index_copy_(0, places, chosen)
        likely = conditioned.log_softmax(dim=1).gather(1, chosen[:, None])
        self.scores.index_copy_(0, places, likely[:, 0])
