"""What is to be sampled: a size, what the prior is conditioned on the image, and what of it is there already.

Shapes: one image of H x W pixels, its grid of h x w codes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...models.pixel_range import from_levels
from ...models.sampling import UNFILLED
from ...models.vqgan import tiling
from ...models.vqgan.tiling import Tiling
from ..checkpoint.loading import LoadedTokenizer
from ..files import read_regular
from ..images.decode import LARGEST, decode_with_alpha
from .condition_fields import ConditionEncoder, ConditionValues


class SampleRequest(NamedTuple):
    """One image to be sampled."""

    size: tuple[int, int]  # rows and columns, in codes
    fields: Mapping[str, Tensor]  # what the prior is conditioned on the whole image, a row each
    known_codes: Tensor | None  # (1, h, w) codes to keep, UNFILLED where it is to be sampled


class Completion(NamedTuple):
    """A photo of which a part is kept, and the rest sampled."""

    photo: Image.Image  # RGBA, upright
    keep_rows: float | None  # share of the photo's rows that is kept, from the top
    tiles: Tiling  # in which it is encoded


def build_request(
    tokenizer: LoadedTokenizer,
    conditions: ConditionEncoder,
    values: ConditionValues,
    size: tuple[int, int] | None,
    completion: Completion | None = None,
) -> SampleRequest:
    """One image that is asked for, checked.

    Args:
        tokenizer: of the prior.
        conditions: of the prior too.
        values: what is known of the image.
        size: rows and columns in pixels; None takes those of the photo, else of the condition, as far as whole codes
            go.
        completion: a photo to go on with.

    Raises:
        ValueError: the size is no multiple of the factor, nothing is to be sampled, or a condition does not fit.
    """
    factor: int = tokenizer.metadata["factor"]
    photo = None if completion is None else completion.photo
    grid = _grid(size, photo, conditions.grid(values), factor)
    if not min(grid):
        raise ValueError(f"the image must have at least {factor} x {factor} pixels, one code; ask for a larger --size")
    fields = conditions.fields(values, grid)
    known = None if completion is None else known_codes(tokenizer, completion, grid)
    return SampleRequest(grid, fields, known)


def read_photo(path: Path) -> Image.Image:
    """An image, upright, with its transparency.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return Image.fromarray(np.ascontiguousarray(decode_with_alpha(read_regular(path, LARGEST))))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the photo {path} cannot be used: {error}") from error


def known_codes(tokenizer: LoadedTokenizer, completion: Completion, size: tuple[int, int]) -> Tensor:
    """The codes of what is to be kept of a photo that lies at the top left of a grid; ``UNFILLED`` elsewhere.

    A code is kept when the photo covers all its pixels, none of them is transparent, and it lies in the upper
    ``keep_rows`` of the photo's rows: by default in all of them, or in the upper half if otherwise nothing would be
    left to sample.

    Returns:
        (1, h, w) int64.

    Raises:
        ValueError: nothing is left to sample, or nothing is kept.
    """
    factor: int = tokenizer.metadata["factor"]
    photo, keep, tiles = completion
    rows, columns = min(photo.height // factor, size[0]), min(photo.width // factor, size[1])
    if not rows or not columns:
        raise ValueError(f"the photo must have at least {factor} x {factor} pixels, one code")
    pixels = torch.from_numpy(np.asarray(photo).copy())[: rows * factor, : columns * factor]
    opaque = pixels[..., 3] >= 128
    kept = torch.zeros(size, dtype=torch.bool)
    kept[:rows, :columns] = opaque.view(rows, factor, columns, factor).all(dim=3).all(dim=1)
    if keep is None:
        keep = 0.5 if bool(kept.all()) else 1.0
    kept[round(rows * keep) :] = False
    if kept.all() or not kept.any():
        raise ValueError(
            f"of {size[0]} x {size[1]} codes the photo gives {int(kept.sum())}, which leaves nothing to "
            f"{'sample' if kept.any() else 'complete'}; make a part of it transparent, or change --keep-rows or --size"
        )
    colors = from_levels(pixels[..., :3])
    colors[~opaque] = colors[opaque].mean(dim=0)  # what lies below transparency is anything
    device = next(tokenizer.model.parameters()).device
    codes = tiling.encode(tokenizer.model, colors.permute(2, 0, 1)[None].to(device), *tiles).cpu()
    given = torch.full((1, *size), UNFILLED, dtype=torch.int64)
    given[:, :rows, :columns] = codes
    return given.masked_fill(~kept, UNFILLED)


def _grid(
    size: tuple[int, int] | None, photo: Image.Image | None, of_conditions: tuple[int, int] | None, factor: int
) -> tuple[int, int]:
    """Rows and columns in codes."""
    if size is not None:
        if size[0] % factor or size[1] % factor or not min(size):
            raise ValueError(f"both sides must be multiples of {factor}, got {size[0]}x{size[1]}")
        return size[0] // factor, size[1] // factor
    if photo is not None:
        return photo.height // factor, photo.width // factor
    if of_conditions is not None:
        return of_conditions
    raise ValueError("say how large the image is to be, such as --size 1024x1024")
