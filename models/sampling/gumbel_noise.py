"""Randomness that belongs to a place: (seed, image, row, column, code) gives a number, whatever was drawn before.

The hash is splitmix64 (Steele, Lea and Flood 2014, figure 17) in 64-bit integers, the same on every device.
Shapes: n places, K codes.
"""

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


def gumbel(keys: list[int], codes: int, device: torch.device) -> Tensor:
    """(n, K) float64 standard Gumbel noise, row by row from the unsigned 64-bit ``keys``.

    Adding it to logits and taking the largest draws from their softmax (Gumbel 1954; Maddison et al. 2014).
    """
    starts = torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device=device)
    state = starts[:, None] + torch.arange(1, codes + 1, device=device) * _signed(_GOLDEN)
    state = (state ^ _shift(state, 30)) * _signed(_FIRST)
    state = (state ^ _shift(state, 27)) * _signed(_SECOND)
    state = state ^ _shift(state, 31)
    uniform = (_shift(state, 12).double() + 0.5) * 2.0**-52  # the upper 52 bits: exact, and never 0 or 1
    return -(-uniform.log()).log()


def _finish(state: int) -> int:
    state = (state ^ state >> 30) * _FIRST & _MASK
    state = (state ^ state >> 27) * _SECOND & _MASK
    return state ^ state >> 31


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _shift(state: Tensor, bits: int) -> Tensor:
    """The logical shift to the right of int64, whose own shift drags the sign along."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
