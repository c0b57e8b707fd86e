"""Sampling grids of codes of any size with a prior.

Shapes: B images, (H, W) their grids, K codes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditions import Fields
from ..priors.base import Prior
from ..priors.decoding import Cell, Decoder, DecodingRequest, Logits
from .config import SamplingConfig
from .gumbel_noise import gumbel, mix
from .logits import apply_guidance, choose
from .wavefront import serial, wavefront

UNFILLED = -1
"""A code that is still to be sampled."""


class SamplingState(NamedTuple):
    """Grids that are being sampled. The tensors are the sampler's own and change with its next step."""

    codes: Tensor  # (B, H, W) int64, UNFILLED where not yet sampled
    scores: Tensor  # (B, H, W) float32: log-likelihood of every sampled code, in nats, 0 elsewhere
    filled: int  # cells passed so far
    cells: int  # cells to pass in all; priors with a rolling cache pass given ones too


def sample_steps(
    prior: Prior,
    fields: Fields,
    size: tuple[int, int],
    image_ids: Sequence[int],
    seed: int,
    config: SamplingConfig,
    known_codes: Tensor | None = None,
    resume_from: SamplingState | None = None,
) -> Iterator[SamplingState]:
    """Sample step by step, so that a caller can look, save and stop in between.

    A code's randomness belongs to (seed, image's number, row, column). On one device with deterministic kernels the
    same codes come, bit for bit, whatever other images are sampled beside, in either mode, on whichever rank.
    That holds for a sample that goes on from where it was stopped too, even if that was in the other mode.

    Args:
        prior: in evaluation mode.
        fields: what its condition reads, for the whole images, B rows each.
        size: rows and columns of the grids.
        image_ids: the numbers of the B images; they key the randomness.
        seed: of all images.
        config: how to draw and in which manner to go.
        known_codes: (B, H, W) int64, codes to keep; ``UNFILLED`` ones are sampled. By default all are.
        resume_from: what a sample of the same images had yielded when it was stopped; its codes are not drawn again.

    Yields:
        After every step of dependent codes, the state of the sample.

    Raises:
        KeyError: a field that the condition reads is missing.
        ValueError: the grid does not suit the prior, the prior is in training mode, or a tensor does not fit.
    """
    if prior.training:
        raise ValueError("sampling needs the prior in evaluation mode; call prior.eval() before")
    shape = (len(image_ids), *size)
    device = next(prior.parameters()).device
    codes = torch.full(shape, UNFILLED, dtype=torch.int64, device=device)
    if known_codes is not None:
        _check(known_codes, shape, prior.codes, "known")
        codes = known_codes.to(device, torch.int64).clone()
    if resume_from is not None:
        _check(resume_from.codes, shape, prior.codes, "resumed")
    request = DecodingRequest(_whole(prior, fields, len(image_ids)), size, tuple(image_ids), config)
    if request.guided and prior.condition_drop == 0:
        raise ValueError(
            "guidance needs a prior that was trained without its condition now and then; "
            "train one with condition_dropout above 0 (0.1 is usual), or leave the scale at 1"
        )
    with torch.no_grad():
        decoder = prior.decoder(request)
    return _sample(decoder, request, config, codes, seed, resume_from)


def sample(
    prior: Prior,
    fields: Fields,
    size: tuple[int, int],
    image_ids: Sequence[int],
    seed: int,
    config: SamplingConfig,
    known_codes: Tensor | None = None,
    progress: Callable[[SamplingState], None] | None = None,
    resume_from: SamplingState | None = None,
) -> SamplingState:
    """Sample to the end; see ``sample_steps``. ``progress`` is called after every step."""
    shape = (len(image_ids), *size)
    codes = torch.zeros(shape, dtype=torch.int64) if known_codes is None else known_codes
    state = SamplingState(codes, torch.zeros(shape), 0, 0)  # of a grid that is given whole
    for state in sample_steps(prior, fields, size, image_ids, seed, config, known_codes, resume_from):
        if progress is not None:
            progress(state)
    return state


def _whole(prior: Prior, fields: Fields, batch: int) -> Fields:
    """The fields that the prior's condition reads, on the prior's device."""
    device = next(prior.parameters()).device
    wanted = {name: prior.condition.field(fields, name).to(device) for name in prior.condition.fields}
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
    fixed = codes != UNFILLED
    known = fixed.all(dim=0).cpu() & (not decoder.reads_given)
    rank = {cell: number for number, cell in enumerate(decoder.order)}
    scores = torch.zeros(codes.shape, device=codes.device)
    before = _resumed(resume_from, codes, scores)
    sampled, cells = 0, int((~known).sum())
    for step in steps(decoder, request, config.mode, lambda cell: bool(known[cell])):
        skipped, fresh = ([cell for cell in step if bool(before[cell]) is wanted] for wanted in (True, False))
        if skipped:
            decoder.skip(codes, skipped)
        if fresh:
            logits = decoder.logits(codes, fresh)
            progress = [rank[cell] / max(len(rank) - 1, 1) for cell in fresh]
            chosen = _draw(logits, request, config, fresh, progress, seed)
            likely = logits.conditioned.log_softmax(dim=1).gather(1, chosen[:, None])
            for number, cell in enumerate(fresh):
                part = slice(number * len(codes), (number + 1) * len(codes))
                place = (slice(None), *cell)
                codes[place] = torch.where(fixed[place], codes[place], chosen[part])
                scores[place] = torch.where(fixed[place], 0.0, likely[part, 0])
        sampled += len(step)
        yield SamplingState(codes, scores, sampled, cells)


def _resumed(stopped: SamplingState | None, codes: Tensor, scores: Tensor) -> Tensor:
    """Write to the codes and the scores what was sampled before; the (H, W) cells that all images have of it."""
    if stopped is None:
        return torch.zeros(codes.shape[1:], dtype=torch.bool)
    done = stopped.codes.to(codes.device)
    fresh = (done != UNFILLED).all(dim=0)
    codes[:, fresh] = done[:, fresh]
    scores[:, fresh] = stopped.scores.to(scores.device)[:, fresh]
    return fresh.cpu()


def steps(decoder: Decoder, request: DecodingRequest, mode: str, known: Callable[[Cell], bool]) -> Iterator[list[Cell]]:
    """The cells that are not known, in a mode: lists of those that can be predicted together."""
    if mode == "serial" or decoder.rows_at_once == 1:
        return serial(decoder.order, known)
    return wavefront(request.size, decoder.rows_at_once, decoder.reach, known)


def _draw(
    logits: Logits,
    request: DecodingRequest,
    config: SamplingConfig,
    step: Sequence[Cell],
    progress: Sequence[float],
    seed: int,
) -> Tensor:
    """The (n,) codes of the step's cells, cell by cell and image by image in a cell."""
    combined = logits.conditioned
    if logits.unconditional is not None:
        scales = [config.guidance.at(share) for share in progress for _ in request.image_ids]
        combined = apply_guidance(combined, logits.unconditional, combined.new_tensor(scales))
    if config.greedy:
        return choose(combined, None, config)
    keys = [mix(seed, image, *cell) for cell in step for image in request.image_ids]
    return choose(combined, gumbel(keys, combined.shape[1], combined.device), config)
