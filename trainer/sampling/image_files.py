"""From codes to files: PNG, or a tiled TIFF for giant images, that say in their metadata how they were made."""

import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from torch import Tensor

from ...models.bounds import Natural, Width, check_ranges
from ...models.pixel_range import to_levels
from ...models.vqgan import tiling
from ...models.vqgan.seams import Seams
from .. import bounded_json
from ..checkpoint.loading import LoadedTokenizer
from ..files import whole_file, write_whole
from ..images import big_tiff
from ..images.decode import open_image

GIANT_PIXELS = 1 << 26  # from here on a TIFF: many programs refuse larger PNGs
IMAGES = "images"  # of a contact sheet's metadata: what it shows
KEY = "smalti"  # of the text chunk
_DESCRIPTION = 270  # of a TIFF


@dataclass(frozen=True)
class DecodeConfig:
    """How codes become pixels."""

    manner: tiling.Manner = "blended"
    tile: Width = 16  # codes a side that the decoder sees at once
    halo: Natural = 2  # codes at a tile's border that fade into the neighbor
    format: Literal["auto", "png", "tiff"] = "auto"  # auto: TIFF from 67 megapixels on

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.tile <= 2 * self.halo:
            raise ValueError(f"tile must be more than twice the halo, got tile {self.tile} and halo {self.halo} codes")

    def suffix(self, height: int, width: int) -> str:
        """``.png`` or ``.tiff`` for an image of this size in pixels."""
        if self.format != "auto":
            return f".{self.format}"
        return ".tiff" if height * width >= GIANT_PIXELS else ".png"


def decode_image(
    tokenizer: LoadedTokenizer, codes: Tensor, config: DecodeConfig, seams: Seams | None = None
) -> Image.Image:
    """The image of (1, h, w) codes; ``seams`` are looked at in passing."""
    return Image.fromarray(np.concatenate(list(_bands(tokenizer, codes, config, seams))))


def write_image(
    tokenizer: LoadedTokenizer, codes: Tensor, config: DecodeConfig, path: Path, made: Mapping[str, Any]
) -> float | None:
    """Decode (1, h, w) codes into a file, whole or not at all; its suffix says which kind.

    Returns:
        How visible the borders of its tiles are, see ``Seams``; None for an image in one piece.
    """
    factor: int = tokenizer.metadata["factor"]
    height, width = (length * factor for length in codes.shape[1:])
    rows, columns = (
        [factor * place for place in tiling.borders(length, config.tile, config.halo, config.manner)]
        for length in codes.shape[1:]
    )
    seams = Seams(height, width, rows, columns) if rows or columns else None
    if path.suffix == ".png":
        save(decode_image(tokenizer, codes, config, seams), path, made)
    else:
        bands, notes = _bands(tokenizer, codes, config, seams), json.dumps(dict(made), sort_keys=True)
        with whole_file(path) as file:
            big_tiff.write(file, bands, (height, width), notes)
    return None if seams is None else seams.seam_ratio()


def save(image: Image.Image, path: Path, made: Mapping[str, Any]) -> None:
    """Write a PNG whose text chunk ``smalti`` says in JSON how it was made."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text(KEY, json.dumps(dict(made), sort_keys=True))
    packed = io.BytesIO()
    image.save(packed, format="PNG", pnginfo=notes)
    write_whole(path, packed.getvalue())


def read_metadata(path: Path) -> dict[str, Any]:
    """What an image says of how it was made; nothing for an image that says nothing, or is not there."""
    try:
        with open_image(path, header_only=True) as image:
            text = image.info[KEY] if path.suffix == ".png" else image.getexif()[_DESCRIPTION]
        notes: dict[str, Any] = bounded_json.parsed(text)
    except (OSError, KeyError, AttributeError, ValueError):
        return {}
    return notes


def check_replaceable(path: Path, key: str, made: Mapping[str, Any] | None = None) -> None:
    """Makes sure that nothing of a user's has a name that is to be written, and no image that was made otherwise.

    Args:
        key: what the metadata of such an image of ours has, and no other's.
        made: what they must say of how it was made.

    Raises:
        ValueError: it has.
    """
    if not os.path.lexists(path):
        return
    found = read_metadata(path)
    if key not in found:
        raise ValueError(f"{path} is there and was not written by this command; move it away, or choose another --out")
    if any(found.get(name) != value for name, value in (made or {}).items()):
        raise ValueError(
            f"{path} is there and was made otherwise (another image, map, network or setting); move it away, or choose "
            "another --out"
        )


def contact_sheet(images: Sequence[Path], path: Path, side: int = 256) -> None:
    """A grid of several images in files, each made to fit a square of ``side`` pixels."""
    small = []
    for image in images:
        with open_image(image) as opened:
            opened.thumbnail((side, side))
            small.append(opened.convert("RGB"))
    save(arranged(small, side), path, {IMAGES: [image.name for image in images]})


def arranged(images: Sequence[Image.Image], side: int) -> Image.Image:
    """A grid of several images, each made to fit a square of ``side`` pixels."""
    across = math.ceil(math.sqrt(len(images)))
    sheet = Image.new("RGB", (across * side, -(-len(images) // across) * side), "white")
    for number, image in enumerate(images):
        small = image.convert("RGB")
        small.thumbnail((side, side))
        sheet.paste(small, (number % across * side, number // across * side))
    return sheet


def _bands(
    tokenizer: LoadedTokenizer, codes: Tensor, config: DecodeConfig, seams: Seams | None
) -> Iterator[npt.NDArray[np.uint8]]:
    """(rows, W, 3) from top to bottom; ``seams`` are looked at in passing."""
    for band in tiling.bands(tokenizer.model, codes, config.tile, config.halo, config.manner):
        colors = band.clamp(-1, 1)
        if seams is not None:
            seams.add(colors)
        yield to_levels(colors[0]).byte().permute(1, 2, 0).numpy()
