"""What procedural images are rendered with: smooth noise, outlines, soft edges, mixtures of colors.

All images are float32 (H, W, 3) in [0, 1]; outlines are float32 (W,) rows in pixels, counted from the top.
"""

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.floating[Any]]
Color = Array  # (3,)


def color(*channels: float) -> Color:
    return np.array(channels, np.float32)


def mix(first: Array, second: Array, share: Array | float) -> Array:
    """``first`` where the share is 0, ``second`` where it is 1."""
    mixed: Array = first + (second - first) * np.asarray(share, np.float32)
    return mixed


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below ``low``, 1 above ``high``, and a rise without corners between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    rise: Array = t * t * (3 - 2 * t)
    return rise


def noise(rng: np.random.Generator, height: int, width: int, down: float, across: float) -> Array:
    """(height, width) of smooth noise around 0 with a spread of about 1, in cells of ``down`` x ``across`` pixels."""
    rows, columns = ceil(height / down) + 4, ceil(width / across) + 4
    grid = Image.fromarray(1.3 * rng.standard_normal((rows, columns), np.float32))
    box = (1.5, 1.5, 1.5 + width / across, 1.5 + height / down)
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box))


def cloudy(
    rng: np.random.Generator, height: int, width: int, down: float, across: float, octaves: int, gain: float = 0.5
) -> Array:
    """Noise with finer and finer cells of less and less weight: every octave halves the cells. Spread of about 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        total += gain**octave * noise(rng, height, width, down / 2**octave, across / 2**octave)
    total *= ((1 - gain**2) / (1 - gain ** (2 * octaves))) ** 0.5
    return total


def outline(rng: np.random.Generator, width: int, across: float, octaves: int, gain: float = 0.5) -> Array:
    """(width,) of one-dimensional noise: the line of hills."""
    line: Array = cloudy(rng, 1, width, 1.0, across, octaves, gain)[0]
    return line


def creased(
    rng: np.random.Generator, height: int, width: int, down: float, across: float, octaves: int, gain: float = 0.48
) -> Array:
    """(height, width) around 0, with sharp ridges between round hollows: rock that water has carved."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        total += gain**octave * (0.8 - np.abs(noise(rng, height, width, down / 2**octave, across / 2**octave)))
    return total


def peaks(rng: np.random.Generator, width: int, across: float, octaves: int) -> Array:
    """(width,) from 0 to 1 with sharp summits and round valleys: the line of mountains."""
    line: Array = creased(rng, 1, width, 1.0, across, octaves, 0.52)[0]
    line -= line.min()
    line /= line.max()
    return line


def smoothed(line: Array, reach: int) -> Array:
    """The outline averaged over ``reach`` pixels to both sides."""
    window = np.full(2 * reach + 1, 1 / (2 * reach + 1), np.float32)
    return np.asarray(np.convolve(np.pad(line, reach, "edge"), window, "valid"))


def moved(field: Array, right: int) -> Array:
    """The field shifted by whole pixels; what comes in at the edge repeats it."""
    columns = np.clip(np.arange(field.shape[1]) - right, 0, field.shape[1] - 1)
    return field[:, columns]


def crowns(rng: np.random.Generator, width: int, spacing: float, size: float, pointed: bool) -> tuple[Array, Array]:
    """The upper edge of one row of trees that stand side by side.

    Args:
        spacing: pixels between stems. size: height of a tree, in pixels. pointed: firs, else round crowns.

    Returns:
        (width,) height of the trees above the ground; (width,) place in the crown, -1 at its left edge to 1.
    """
    x = np.arange(width, dtype=np.float32)
    stems = np.arange(-2.0, width / spacing + 3)
    stems = (stems + rng.uniform(-0.35, 0.35, stems.size)) * spacing
    heights = size * rng.uniform(0.6, 1.0, stems.size)
    half = spacing * rng.uniform(0.75, 1.15, stems.size)
    top, place = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for stem, tall, reach in zip(stems, heights, half, strict=True):
        first, last = max(0, int(stem - reach)), min(width, int(stem + reach) + 2)
        across = (x[first:last] - stem) / reach
        shape = 1 - np.abs(across) ** 1.1 if pointed else np.clip(1 - across**2, 0, 1) ** 0.45
        own = tall * np.clip(np.where(np.abs(across) <= 1, shape, 0), 0, 1)
        higher = own > top[first:last]
        top[first:last] = np.where(higher, own, top[first:last])
        place[first:last] = np.where(higher, across, place[first:last])
    if not pointed:
        top *= 1 + 0.07 * outline(rng, width, 0.28 * spacing, 2)
    return top, place


def fir(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """One large fir as a stamp, (size, size // 2): its coverage, and its light, which comes from the right."""
    y, x = np.mgrid[0:size, 0 : size // 2].astype(np.float32)
    t, across = y / size, (x - size / 4) / (size / 4)
    tiers = rng.uniform(13, 19)
    fringe = 0.12 * noise(rng, size, size // 2, size / 50, size / 14)
    branch = (np.clip(t - 0.035 * np.abs(across), 0, 1) ** 0.8 * tiers) % 1  # 0 where one begins, 1 at its lower edge
    reach = t**0.9 * (0.58 + 0.42 * branch) * (1 + fringe)
    coverage = np.clip((reach - np.abs(across)) * size / 12, 0, 1) * (t < 0.95)
    stem = (np.abs(across) < 0.045) & (t > 0.9)
    light = np.clip(0.5 + 0.5 * across / np.maximum(reach, 0.05), 0, 1) * (1 - 0.75 * branch)
    return np.maximum(coverage, stem).astype(np.float32), light
