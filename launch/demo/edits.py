"""Edits landscapes by their maps, and counts how much of what was made is what the edited maps say.

``python -m smalti.launch.demo.edits EDITOR SEGMENTER OUT`` renders landscapes whose numbers lie far behind those of any
set, has ``smalti edit`` make two edits of each, and a segmenter name every pixel that was made. A segmenter errs too:
beside the share stands that of pixels of the landscapes themselves which it names as their maps do, and what it would
be if the edit had been left undone.
"""

import argparse
import io
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ...trainer.exit_code import ExitCode
from ...trainer.files import write_whole
from ...trainer.frozen_networks.segmenters import Segmenter, load_segmenter
from ...trainer.images.decode import open_image
from ...trainer.sampling.image_files import read_metadata, save
from .. import command
from ..edit import __main__ as edit
from .landscapes import Landscape, landscape, map_png
from .map_edits import MapEdit, map_edits

SEED, FIRST = 0, 1_000_000  # of the landscapes: far behind those that anything is trained on
EACH = 2  # edits of a landscape
SHOWN = 4  # edits in the sheet, of as many kinds
CANDIDATES = 4
SETTINGS = ("--temperature", "0.5", "--guidance", "3", "--feather", "0")  # of smalti edit

Pixels = npt.NDArray[np.uint8]


class Edited(NamedTuple):
    """An edit and what came of it."""

    name: str
    shown: Pixels  # the landscape, its map, the edited map and the candidates, the likeliest first, side by side
    found: list[float]  # of each candidate: the share of edited pixels that are what the edited map says
    before: float  # the share of them that the segmenter would find right, had the landscape been left as it was
    pixels: int  # that were edited


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _edit_all(asked))


def _edit_all(asked: argparse.Namespace) -> int:
    height, width = asked.size
    segmenter = load_segmenter(asked.segmenter, min(asked.size))
    edited: list[Edited] = []
    right = []
    for index in range(FIRST, FIRST + asked.count):
        rendered = landscape(SEED, index, height, width)
        right.append((_named(segmenter, rendered.image) == rendered.labels).mean())
        possible = map_edits(rendered.labels)
        for number in range(min(EACH, len(possible))):
            wanted = possible[(index + number) % len(possible)]  # another kind first for every landscape
            one = _edit(asked.editor, segmenter, rendered, wanted, asked.out / f"landscape-{index:04d}-{number}")
            command.note(f"landscape {index}, {one.name}: {np.mean(one.found):.1%}")
            edited.append(one)
    _write_sheet(edited, asked.out / "edits.png")
    for line in _lines(edited, float(np.mean(right))):
        command.say(line)
    command.say(f"{asked.out / 'edits.png'}: landscapes, their maps, the edited maps, and the candidates")
    return ExitCode.DONE


def _edit(editor: Path, segmenter: Segmenter, rendered: Landscape, wanted: MapEdit, out: Path) -> Edited:
    """One edit by the command.

    Raises:
        ValueError: the command refused it, and has said why.
    """
    packed = io.BytesIO()
    Image.fromarray(rendered.image).save(packed, "PNG")
    files = [out / name for name in ("before.png", "map.png", "edited.png")]
    for file, data in zip(files, (packed.getvalue(), map_png(rendered.labels), map_png(wanted.labels)), strict=True):
        write_whole(file, data)
    image, before, after = map(str, files)
    arguments = [str(editor), "--image", image, "--segmentation", before, "--edited", after, "--out", str(out)]
    with redirect_stdout(io.StringIO()):  # a line for each file
        code = edit.main([*arguments, "--candidates", str(CANDIDATES), *SETTINGS])
    if code != ExitCode.DONE:
        raise ValueError(f"{out}: this edit could not be made")
    made = sorted(out.glob("before-seed-0-[0-9]*.png"), key=lambda path: int(read_metadata(path)["rank"]))
    masked = wanted.labels != rendered.labels
    candidates = [_colors(path) for path in made]
    return Edited(
        wanted.name,
        np.concatenate([*(_colors(file) for file in files), *candidates], axis=1),
        [float((_named(segmenter, each) == wanted.labels)[masked].mean()) for each in candidates],
        float((_named(segmenter, rendered.image) == wanted.labels)[masked].mean()),
        int(masked.sum()),
    )


def _named(segmenter: Segmenter, image: Pixels) -> Pixels:
    """(H, W) the labels that are found in an image (H, W, 3)."""
    found: Pixels = segmenter.find(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy().astype(np.uint8)
    return found


def _colors(path: Path) -> Pixels:
    with open_image(path) as image:
        return np.array(image.convert("RGB"))


def _write_sheet(edited: Sequence[Edited], path: Path) -> None:
    """One edit of each of several kinds, a row each."""
    kinds = {one.name: one.shown for one in reversed(edited)}
    rows = list(kinds.values())[::-1][:SHOWN]
    save(Image.fromarray(np.concatenate(rows)), path, {"edits": list(kinds)[::-1][:SHOWN]})


def _lines(edited: Sequence[Edited], right: float) -> list[str]:
    """What there is to say, of each kind and of all."""
    kinds: dict[str, list[Edited]] = defaultdict(list)
    for one in edited:
        kinds[one.name].append(one)
    lines = [f"{'edit':24} edits  agrees  likeliest  had nothing been done"]
    for name, those in [*sorted(kinds.items()), ("all", list(edited))]:
        weights = [one.pixels for one in those]
        every, likeliest, before = (
            np.average(shares, weights=weights)
            for shares in (
                [np.mean(one.found) for one in those],
                [one.found[0] for one in those],
                [one.before for one in those],
            )
        )
        lines.append(f"{name:24} {len(those):5}  {every:6.1%}  {likeliest:9.1%}  {before:21.1%}")
    return [
        *lines,
        f"of the pixels of the landscapes themselves the segmenter names {right:.1%} as their maps do",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "demo.edits",
        __doc__,
        "python -m smalti.launch.demo.edits runs/edit/editor runs/edit/segmenter.pt runs/edit/edits",
    )
    parser.add_argument("editor", type=Path, help="folder of the editor's run")
    parser.add_argument("segmenter", type=Path, help="the file of demo.segmenter")
    parser.add_argument("out", type=Path, help="folder for the edits")
    parser.add_argument("--count", type=command.count, default=12, metavar="N", help="landscapes (12)")
    parser.add_argument(
        "--size", type=command.size, default=(128, 160), metavar="HEIGHTxWIDTH", help="in pixels (128x160)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
