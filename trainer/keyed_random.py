"""Randomness as arithmetic: every draw is a function of integers that name what is drawn for.

Nothing here keeps or reads a global state, so ranks, worker processes and restarts cannot change a draw. Only integer
arithmetic of fixed width is used: the streams of ``random`` and ``numpy`` may change between their versions.
"""

import hashlib

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """One output of the SplitMix64 generator (Steele, Lea and Flood 2014) for a 64-bit state."""
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def splitmix64_of_all(states: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """As ``splitmix64`` of each state."""
    states = states + np.uint64(0x9E3779B97F4A7C15)
    states = (states ^ (states >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    states = (states ^ (states >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(states ^ (states >> np.uint64(31)))


def mix(*parts: int) -> int:
    """A 64-bit key from several integers; their order matters."""
    key = 0
    for part in parts:
        key = splitmix64(key ^ splitmix64(part & _MASK))
    return key


def text_key(text: str) -> int:
    """A 64-bit key of a text, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Draws:
    """A sequence of draws that belongs to one key."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._count = 0

    def uniform(self) -> float:
        """The next draw from [0, 1), on a grid of 2^-53."""
        self._count += 1
        return (mix(self._key, self._count) >> 11) * 2.0**-53

    def below(self, bound: int) -> int:
        """The next whole number from 0 to ``bound - 1``."""
        return min(int(self.uniform() * bound), bound - 1)
