"""From codes to files: PNG, or a tiled TIFF for giant pictures, that say in their metadata how they were made."""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from torch import Tensor

from ...models.bounds import Natural, Width, check_ranges
from ...models.vqgan import tiling
from ...models.vqgan.seams import Seams
from .. import bounded_json
from ..checkpoint.loading import Tokenizer
from ..files import whole_file, write_whole
from ..images import big_tiff
from ..images.decode import open_image

GIANT_PIXELS = 1 << 26  # from here on a TIFF: many programs refuse larger PNGs
KEY = "smalti"  # of the text chunk
_DESCRIPTION = 270  # of a TIFF


@dataclass(frozen=True)
class DevelopConfig:
    """How codes become pixels."""

    manner: tiling.Manner = "blended"
    tile: Width = 16  # codes a side that the decoder sees at once
    halo: Natural = 2  # codes at a tile's border that fade into the neighbour
    format: Literal["auto", "png", "tiff"] = "auto"  # auto: TIFF from 67 megapixels on

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.halo < 0 or self.tile <= 2 * self.halo:
            raise ValueError(f"tile must be more than twice the halo, got tile {self.tile} and halo {self.halo} codes")

    def suffix(self, height: int, width: int) -> str:
        """``.png`` or ``.tiff`` for a picture of this size in pixels."""
        if self.format != "auto":
            return f".{self.format}"
        return ".tiff" if height * width >= GIANT_PIXELS else ".png"


def develop(tokenizer: Tokenizer, codes: Tensor, config: DevelopConfig, seams: Seams | None = None) -> Image.Image:
    """The picture of (1, h, w) codes; ``seams`` are looked at in passing."""
    return Image.fromarray(np.concatenate(list(_bands(tokenizer, codes, config, seams))))


def write(
    tokenizer: Tokenizer, codes: Tensor, config: DevelopConfig, path: Path, made: Mapping[str, Any]
) -> float | None:
    """Decode (1, h, w) codes into a file, whole or not at all; its suffix says which kind.

    Returns:
        How visible the borders of its tiles are, see ``Seams``; None for a picture in one piece.
    """
    factor: int = tokenizer.card["factor"]
    height, width = (length * factor for length in codes.shape[1:])
    rows, columns = (
        [factor * place for place in tiling.borders(length, config.tile, config.halo, config.manner)]
        for length in codes.shape[1:]
    )
    seams = Seams(height, width, rows, columns) if rows or columns else None
    if path.suffix == ".png":
        save(develop(tokenizer, codes, config, seams), path, made)
    else:
        bands, notes = _bands(tokenizer, codes, config, seams), json.dumps(dict(made), sort_keys=True)
        with whole_file(path) as file:
            big_tiff.write(file, bands, (height, width), notes)
    return None if seams is None else seams.measured()


def save(picture: Image.Image, path: Path, made: Mapping[str, Any]) -> None:
    """Write a PNG whose text chunk ``smalti`` says in JSON how it was made."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text(KEY, json.dumps(dict(made), sort_keys=True))
    packed = io.BytesIO()
    picture.save(packed, format="PNG", pnginfo=notes)
    write_whole(path, packed.getvalue())


def read_notes(path: Path) -> dict[str, Any]:
    """What a picture says of how it was made; nothing for a picture that says nothing, or is not there."""
    try:
        with open_image(path, header_only=True) as picture:
            text = picture.info[KEY] if path.suffix == ".png" else picture.getexif()[_DESCRIPTION]
        notes: dict[str, Any] = bounded_json.parsed(text)
    except (OSError, KeyError, AttributeError, ValueError):
        return {}
    return notes


def contact_sheet(pictures: Sequence[Path], path: Path, side: int = 256) -> None:
    """A grid of several pictures, each made to fit a square of ``side`` pixels."""
    across = math.ceil(math.sqrt(len(pictures)))
    sheet = Image.new("RGB", (across * side, -(-len(pictures) // across) * side), "white")
    for number, picture in enumerate(pictures):
        with open_image(picture) as opened:
            opened.thumbnail((side, side))
            sheet.paste(opened, (number % across * side, number // across * side))
    save(sheet, path, {"pictures": [picture.name for picture in pictures]})


def _bands(
    tokenizer: Tokenizer, codes: Tensor, config: DevelopConfig, seams: Seams | None
) -> Iterator[npt.NDArray[np.uint8]]:
    """(rows, W, 3) from top to bottom; ``seams`` are looked at in passing."""
    for band in tiling.bands(tokenizer.model, codes, config.tile, config.halo, config.manner):
        colours = band.clamp(-1, 1)
        if seams is not None:
            seams.add(colours)
        yield ((colours[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
