"""Gray levels 0 to 255 and the [-1, 1] in which networks see them, one into the other."""

from torch import Tensor


def from_levels(levels: Tensor) -> Tensor:
    """Gray levels of any numeric type, any shape, to float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def to_levels(pixels: Tensor) -> Tensor:
    """Pixels of any shape, clamped to [-1, 1], to the nearest gray levels, in the type that they had."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round()
