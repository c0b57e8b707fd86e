"""Renders procedural landscapes and their segmentations: ``python -m smalti.launch.demo.landscapes DEST``."""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from ...models.bounds import Count, Natural, Seed, Width, check_ranges
from ...trainer import bounded_json
from ...trainer.exit_code import ExitCode
from ...trainer.files import write_whole
from ...trainer.prepare.process_pool import spread
from .. import command
from .noise import Array, Color, color, outline, smoothstep
from .scene import HOURS, LABELS, Scene

__all__ = ["LABELS", "Landscape", "LandscapeSet", "landscape"]

FEW_PIXELS = 4_000_000  # of a set that one process has rendered before others have started
FIRS = color(0.16, 0.27, 0.17)
MAP_COLORS = {  # for people who look at a map; its labels are the numbers behind them
    "sky": (124, 172, 222),
    "sun": (255, 214, 90),
    "mountains": (134, 124, 134),
    "forest": (42, 92, 58),
    "water": (52, 104, 160),
    "sand": (222, 198, 150),
    "meadow": (140, 178, 84),
}


class Landscape(NamedTuple):
    """A rendered image and its map."""

    image: npt.NDArray[np.uint8]  # (H, W, 3)
    labels: npt.NDArray[np.uint8]  # (H, W): places in LABELS


def landscape(seed: int, index: int, height: int, width: int) -> Landscape:
    """The landscape of that number: always the same for the same arguments, another for any other.

    Five compositions take turns, and so do four hours of the day, so that any twenty in a row hold every pair.

    Raises:
        ValueError: a side is less than 64 pixels.
    """
    _check_size(height, width)
    rng = np.random.Generator(np.random.PCG64([seed, index]))
    light = HOURS[index % len(HOURS)]
    composition = COMPOSITIONS[index % len(COMPOSITIONS)]
    scene = Scene(rng, height, width, light, rng.uniform(0.46, 0.60))
    scene.sky()
    scene.sun()
    if rng.random() < 0.8:
        scene.clouds()
    composition(scene)
    image = np.clip(scene.image * 255 + 0.5, 0, 255).astype(np.uint8)
    return Landscape(image, scene.labels)


@dataclass(frozen=True)
class LandscapeSet:
    """A folder of landscapes: ``images/NAME.jpg`` beside ``maps/NAME.png``.

    Attributes:
        count: images to render.
        height, width: of every image, in pixels.
        seed: another seed, another set.
        first: number of the first image; numbers beyond those of a set give scenes that the set does not have.
        maps_only: leave the images out.
    """

    count: Count = 24
    height: Width = 1024
    width: Width = 1280
    seed: Seed = 0
    first: Natural = 0
    maps_only: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_size(self.height, self.width)

    def render(self, folder: Path, processes: int = 1) -> Iterator[str]:
        """Render what the folder does not have yet, and give the name of each image once it is there.

        An image is written whole, its map before it: after a kill the same call goes on where it was.

        Args:
            processes: at once; one renders in order. 0 for one a core, for a set of many pixels.

        Raises:
            ValueError: the folder holds a set of another seed or size.
        """
        metadata = {name: value for name, value in asdict(self).items() if name in ("height", "width", "seed")}
        metadata_file = folder / "landscapes.json"
        if metadata_file.exists() and (found := bounded_json.read(metadata_file)) != metadata:
            raise ValueError(
                f"{folder} holds landscapes of {found}, not of {metadata}; name another folder, or delete it"
            )
        write_whole(metadata_file, json.dumps(metadata).encode())
        if not processes and self.count * self.height * self.width < FEW_PIXELS:
            processes = 1
        indices = range(self.first, self.first + self.count)
        for _, name in spread(partial(_write, self, folder), indices, processes):
            yield name


def _write(landscapes: LandscapeSet, folder: Path, index: int) -> str:
    """One landscape of a set, as far as it is not there yet; its name."""
    name = f"landscape-{index:04d}"
    files = [folder / "maps" / f"{name}.png", folder / "images" / f"{name}.jpg"][: 1 if landscapes.maps_only else 2]
    if not all(file.exists() for file in files):
        rendered = landscape(landscapes.seed, index, landscapes.height, landscapes.width)
        for file, encoded in zip(files, (map_png(rendered.labels), _jpeg(rendered.image)), strict=False):
            write_whole(file, encoded)
    return name


def _check_size(height: int, width: int) -> None:
    if min(height, width) < 64:  # smaller than a tree
        raise ValueError(f"a landscape needs at least 64 pixels a side, got {height} x {width}")


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92)
    return file.getvalue()


def map_png(labels: npt.NDArray[np.uint8]) -> bytes:
    """The file of a map (H, W), whose palette shows what its labels are called."""
    image = Image.fromarray(labels)
    colors = [channel for label in LABELS for channel in MAP_COLORS[label]]
    image.putpalette(colors + [0] * (3 * 256 - len(colors)))  # all 256, or Pillow would pack the labels into 4 bits
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _leaves(scene: Scene) -> tuple[Color, bool]:
    """The color of a forest, and whether its trees are pointed: firs, or round crowns in summer, spring or autumn."""
    if scene.rng.random() < 0.55:
        return FIRS, True
    seasons = ((0.24, 0.36, 0.15), (0.36, 0.44, 0.18), (0.56, 0.36, 0.14))
    return color(*seasons[int(scene.rng.integers(3))]), False


def _grass(scene: Scene) -> Color:
    return color(*((0.34, 0.44, 0.20), (0.40, 0.47, 0.22), (0.52, 0.50, 0.28))[int(scene.rng.integers(3))])


def _ranges(scene: Scene, tallest: float, count: int) -> None:
    """Ranges of mountains one before the other, the far ones pale; their foot lies below the horizon."""
    foot = scene.horizon + round(0.07 * scene.height)
    snow = max(0.0, scene.rng.uniform(-0.3, 0.6))
    for nearness in range(count):
        share = (nearness + 1) / count
        tall = tallest * (1.0 - 0.38 * share) * scene.rng.uniform(0.85, 1.1)
        one = np.ones(scene.width, np.float32)
        scene.mountains(foot, tall + 0.07, 0.78 - 0.55 * share, 0.62 - 0.24 * share, snow, one)


def _across(scene: Scene) -> Array:
    """(W,) from -1 at the left edge to 1 at the right."""
    return np.linspace(-1, 1, scene.width, dtype=np.float32)


def _lake(scene: Scene) -> None:
    """Mountains and a wood mirrored in a lake, seen from its shore."""
    rng, unit = scene.rng, scene.height
    _ranges(scene, rng.uniform(0.26, 0.42), int(rng.integers(2, 4)))
    far = scene.horizon - unit * np.maximum(0.012, 0.03 + 0.02 * outline(rng, scene.width, unit * 0.8, 3))
    scene.forest(far, scene.horizon, 0.045, 0.18, *_leaves(scene))
    scene.water(scene.horizon, color(0.10, 0.24, 0.30))
    _foreground(scene, 0.80)


def _coast(scene: Scene) -> None:
    """The open sea and a beach, with a headland or without."""
    rng, unit = scene.rng, scene.height
    x = _across(scene) * (1 if rng.random() < 0.5 else -1)
    head = smoothstep(0.0, 0.9, x + 0.2 * outline(rng, scene.width, unit * 0.5, 3))
    if rng.random() < 0.75:
        scene.mountains(scene.horizon + 1, rng.uniform(0.14, 0.26), 0.42, 0.5, 0.0, np.clip(head * 1.2, 0.0, 1))
    scene.water(scene.horizon, color(0.08, 0.32, 0.38))
    shore = (0.80 - 0.14 * x * rng.uniform(0.3, 1.0) + 0.02 * outline(rng, scene.width, unit * 0.7, 2)) * unit
    scene.sand(shore, scene.height, 0.02, wet=True)
    if rng.random() < 0.5:
        scene.firs(1.0, FIRS)


def _valley(scene: Scene) -> None:
    """Meadows between woods, before mountains."""
    rng, unit = scene.rng, scene.height
    _ranges(scene, rng.uniform(0.28, 0.42), int(rng.integers(2, 4)))
    (leaves, pointed), grass = _leaves(scene), _grass(scene)
    line = float(scene.horizon)
    for nearness in range(3):
        tilt = rng.uniform(-0.07, 0.07) * _across(scene) if nearness else 0.0
        wave = np.tanh(0.7 * outline(rng, scene.width, unit * 0.9, 2) - (nearness == 0))
        hills, distance = line + unit * (tilt + 0.05 * wave), 0.28 - 0.12 * nearness
        grass_line = hills + 0.05 * unit
        if nearness != 1:
            scene.forest(hills, round(grass_line.max()) + 1, 0.035 + 0.02 * nearness, distance, leaves, pointed)
        scene.meadow(grass_line, scene.height, distance, grass)
        line += unit * 0.13
    if rng.random() < 0.4:
        scene.firs(1.0, FIRS)


def _dunes(scene: Scene) -> None:
    """Dunes before a water and mountains."""
    rng, unit = scene.rng, scene.height
    _ranges(scene, rng.uniform(0.16, 0.30), 2)
    scene.water(scene.horizon, color(0.10, 0.30, 0.36))
    for share in (0.045, 0.15, 0.28):
        swell = np.tanh(0.8 * outline(rng, scene.width, unit * (0.35 + 1.2 * share), 3, 0.3))
        line = scene.horizon + unit * (share + 0.055 * swell)
        scene.sand(line, scene.height, 0.25 * (1 - share / 0.3), wet=False)


def _fjord(scene: Scene) -> None:
    """Steep walls on both sides of a water."""
    rng = scene.rng
    x = _across(scene) + rng.uniform(-0.3, 0.3)
    one = np.ones(scene.width, np.float32)
    scene.mountains(scene.horizon + 1, rng.uniform(0.2, 0.3), 0.62, 0.7, 0.5, one)
    scene.mountains(scene.horizon + 1, rng.uniform(0.36, 0.50), 0.36, 0.6, 0.3, smoothstep(0.05, 0.8, np.abs(x)))
    scene.mountains(scene.horizon + 1, rng.uniform(0.30, 0.44), 0.16, 0.5, 0.0, smoothstep(0.30, 1.1, np.abs(x)))
    scene.water(scene.horizon, color(0.06, 0.22, 0.28))
    _foreground(scene, 0.84)


def _foreground(scene: Scene, place: float) -> None:
    """A shore at our feet: sand, or grass with a rim of sand, and perhaps a few firs."""
    rng, unit = scene.rng, scene.height
    tilt = _across(scene) * rng.uniform(-0.12, 0.12)
    shore = (place + rng.uniform(-0.03, 0.06) + tilt + 0.025 * outline(rng, scene.width, unit * 0.6, 3)) * unit
    scene.sand(shore, scene.height, 0.02, wet=True)
    if rng.random() < 0.5:
        scene.meadow(shore + 0.04 * unit, scene.height, 0.02, _grass(scene))
    if rng.random() < 0.5:
        scene.firs(place + 0.12, FIRS)


COMPOSITIONS: tuple[Callable[[Scene], None], ...] = (_lake, _coast, _valley, _dunes, _fjord)


def main(arguments: list[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _render(asked))


def _render(asked: argparse.Namespace) -> int:
    height, width = asked.size
    landscapes = LandscapeSet(asked.count, height, width, asked.seed, asked.first, asked.maps_only)
    names = landscapes.render(asked.destination, processes=0)
    if sys.stderr.isatty():
        names = tqdm(names, total=asked.count, unit="image", dynamic_ncols=True)
    for number, name in enumerate(names, 1):
        if not sys.stderr.isatty():
            command.note(f"{name}: {number} of {asked.count}")
    command.say(f"{asked.count} {'maps' if asked.maps_only else 'landscapes'} in {asked.destination}")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("demo.landscapes", __doc__, "python -m smalti.launch.demo.landscapes landscapes --count 24")
    parser.add_argument("destination", type=Path, help="gets images/ and maps/; run again after a kill, it goes on")
    parser.add_argument("--count", type=command.count, default=24, metavar="N", help="images (default 24)")
    parser.add_argument(
        "--size", type=command.size, default=(1024, 1280), metavar="HEIGHTxWIDTH", help="in pixels (default 1024x1280)"
    )
    parser.add_argument(
        "--seed", type=command.seed, default=0, metavar="N", help="another seed, another set (default 0)"
    )
    parser.add_argument(
        "--first",
        type=command.natural,
        default=0,
        metavar="N",
        help="number of the first; past a set's end, its scenes are new",
    )
    parser.add_argument("--maps-only", action="store_true", help="leave the images out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
