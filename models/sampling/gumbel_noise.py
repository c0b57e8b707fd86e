"""Randomness that belongs to a place: (seed, image, row, column, code) gives a number, whatever was drawn before.

The hash is splitmix64 (Steele, Lea and Flood 2014, figure 17) in 64-bit integers, the same on every device.
Shapes: n places, K codes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def mix(*numbers: int) -> int:
    """One unsigned 64-bit number from several integers; their order matters."""
    state = 0
    for number in numbers:
        state = _finish((state + number * _GOLDEN + _GOLDEN) & _MASK)
    return state


def cell_keys(seed: int, image_ids: Sequence[int], size: tuple[int, int], device: torch.device) -> Tensor:
    """(B, H, W) int64: ``mix`` of the seed, the image's number, the row and the column, bit for bit."""
    images = torch.tensor([_signed(mix(seed, image)) for image in image_ids], dtype=torch.int64, device=device)
    rows, columns = (torch.arange(1, side + 1, device=device) * _signed(_GOLDEN) for side in size)
    return _finished(_finished(images[:, None] + rows)[:, :, None] + columns)


def gumbel(keys: Tensor, codes: int) -> Tensor:
    """(n, K) float64 standard Gumbel noise, row by row from (n,) int64 keys.

    Adding it to logits and taking the largest draws from their softmax (Gumbel 1954; Maddison et al. 2014).
    """
    state = _finished(keys[:, None] + torch.arange(1, codes + 1, device=keys.device) * _signed(_GOLDEN))
    uniform = (_shift(state, 12).double() + 0.5) * 2.0**-52  # the upper 52 bits: exact, and never 0 or 1
    return -(-uniform.log()).log()


def _finish(state: int) -> int:
    state = (state ^ state >> 30) * _FIRST & _MASK
    state = (state ^ state >> 27) * _SECOND & _MASK
    return state ^ state >> 31


def _finished(state: Tensor) -> Tensor:
    """As ``_finish``; int64 multiplies modulo 2^64."""
    state = (state ^ _shift(state, 30)) * _signed(_FIRST)
    state = (state ^ _shift(state, 27)) * _signed(_SECOND)
    return state ^ _shift(state, 31)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _shift(state: Tensor, bits: int) -> Tensor:
    """The logical shift to the right of int64, whose own shift drags the sign along."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
