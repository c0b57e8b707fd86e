"""What is to be sampled: a size, what the prior is conditioned on the image, and what of it is there already.

Shapes: one image of H x W pixels, its grid of h x w codes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from ...models.conditions import Condition
from ...models.conditions.code_map import majority_label
from ...models.pixel_range import from_levels
from ...models.sampling import UNFILLED
from ...models.vqgan import tiling
from ...models.vqgan.tiling import Tiling
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..files import read_regular
from ..images.decode import LARGEST, Pixels, decode_image, decode_map, open_image
from ..images.known_values import only_labels

SUPPORTED_FIELDS = ("segmentation_codes", "cls", "box", "source_size", "flip")


class SampleRequest(NamedTuple):
    """One image to be sampled."""

    size: tuple[int, int]  # rows and columns, in codes
    fields: Mapping[str, Tensor]  # what the prior is conditioned on the whole image, a row each
    known_codes: Tensor | None  # (1, h, w) codes to keep, UNKNOWN where it is to be sampled


class ConditionInputs(NamedTuple):
    """What a user may say of an image."""

    segmentation_file: Path | None = None  # a label map, for priors of maps; of any size
    segmentation_tokenizer: LoadedTokenizer | None = None  # for priors whose maps were tokenized
    label: int | None = None  # of a class, for priors of classes
    init_image: Path | None = None  # an image to complete
    keep_rows: float | None = None  # share of the photo's rows that is kept, from the top


def build_request(
    prior: LoadedPrior,
    tokenizer: LoadedTokenizer,
    size: tuple[int, int] | None,
    conditions: ConditionInputs,
    tiles: Tiling,
) -> SampleRequest:
    """Check what is asked against what the prior was trained on.

    Args:
        prior, tokenizer: a pair.
        size: rows and columns in pixels; None takes the photo's or the map's, as far as whole codes go.
        conditions: of the image.
        tiles: in which a photo or a map is encoded.

    Raises:
        OSError: a file cannot be read.
        ValueError: the prior needs a condition that is not given, the size is no multiple of the factor, or nothing
            is to be sampled.
    """
    _check_conditions(prior, conditions)
    factor: int = prior.metadata["factor"]
    photo = None if conditions.init_image is None else read_photo(conditions.init_image)
    labels = (
        None
        if conditions.segmentation_file is None
        else torch.from_numpy(_segmentation_of(conditions.segmentation_file).astype(np.int64))
    )
    rows, columns = _grid(size, photo, labels, factor)
    height, width = rows * factor, columns * factor
    fields: dict[str, Tensor] = {
        "box": torch.tensor([[0.0, 0.0, width, height]]),
        "source_size": torch.tensor([[float(height), float(width)]]),
        "flip": torch.tensor([False]),
    }
    if labels is not None:
        fields["segmentation_codes"] = _segmentation_codes(
            labels, (rows, columns), conditions.segmentation_tokenizer, tiles
        )
        check_table(prior.model.condition, "segmentation_codes", fields["segmentation_codes"])
    if conditions.label is not None:
        fields["cls"] = torch.tensor([conditions.label])
        check_table(prior.model.condition, "cls", fields["cls"])
    given = None if photo is None else known_codes(tokenizer, photo, (rows, columns), conditions.keep_rows, tiles)
    return SampleRequest((rows, columns), fields, given)


def _segmentation_of(path: Path) -> Pixels:
    try:
        return decode_map(read_regular(path, LARGEST))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the map {path} cannot be used: {error}") from error


def read_photo(path: Path) -> Image.Image:
    """An image, upright, with its transparency.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        data = read_regular(path, LARGEST)
        with open_image(data) as opened:
            if opened.mode.startswith(("I", "F")):  # more than 8 bits, without transparency
                return Image.fromarray(decode_image(data)).convert("RGBA")
            return ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the photo {path} cannot be used: {error}") from error


def known_codes(
    tokenizer: LoadedTokenizer, photo: Image.Image, size: tuple[int, int], keep: float | None, tiles: Tiling
) -> Tensor:
    """The codes of what is to be kept of a photo that lies at the top left of a grid; ``UNKNOWN`` elsewhere.

    A code is kept when the photo covers all its pixels, none of them is transparent, and it lies in the upper ``keep``
    of the photo's rows: by default in all of them, or in the upper half if otherwise nothing would be left to sample.

    Returns:
        (1, h, w) int64.

    Raises:
        ValueError: nothing is left to sample, or nothing is kept.
    """
    factor: int = tokenizer.metadata["factor"]
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
            f"{'sample' if kept.any() else 'complete'}; make a part of it transparent, or change --keep or --size"
        )
    colors = from_levels(pixels[..., :3])
    colors[~opaque] = colors[opaque].mean(dim=0)  # what lies below transparency is anything
    device = next(tokenizer.model.parameters()).device
    codes = tiling.encode(tokenizer.model, colors.permute(2, 0, 1)[None].to(device), *tiles).cpu()
    given = torch.full((1, *size), UNFILLED, dtype=torch.int64)
    given[:, :rows, :columns] = codes
    return given.masked_fill(~kept, UNFILLED)


def _check_conditions(prior: LoadedPrior, conditions: ConditionInputs) -> None:
    needed = set(prior.model.condition.fields)
    if unknown := sorted(needed - set(SUPPORTED_FIELDS)):
        raise ValueError(f"this prior reads {', '.join(unknown)}, which this command cannot tell it")
    for field, given, option in (
        ("segmentation_codes", conditions.segmentation_file, "--segmentation"),
        ("segmentation_codes", conditions.segmentation_tokenizer, "--segmentation-tokenizer"),
        ("cls", conditions.label, "--class"),
    ):
        if given is not None and field not in needed:
            raise ValueError(f"this prior reads {', '.join(prior.model.condition.fields) or 'nothing'}; omit {option}")
    if "segmentation_codes" in needed:
        if conditions.segmentation_file is None:
            raise ValueError("this prior samples what a map says; give one with --segmentation")
        _check_segmentation_tokenizer(prior, conditions.segmentation_tokenizer)
    if "cls" in needed and conditions.label is None:
        raise ValueError("this prior samples a class; give its number with --class")


def _check_segmentation_tokenizer(prior: LoadedPrior, tokenizer: LoadedTokenizer | None) -> None:
    """A map must become codes as it did in training."""
    learnt = (prior.metadata.get("condition_tokenizers") or {}).get("segmentation")
    given = None if tokenizer is None else str(tokenizer.metadata["digest"])
    if learnt == given:
        return
    found = "is missing" if given is None else f"is {given[:12]}"
    if learnt is None:
        raise ValueError(
            f"this prior learnt maps as the commonest label of each cell, and --segmentation-tokenizer {found}; omit it"
        )
    raise ValueError(
        f"this prior learnt maps as codes of the tokenizer {learnt[:12]}, and --segmentation-tokenizer {found}; "
        "name the folder "
        "of that one"
    )


def _grid(
    size: tuple[int, int] | None, photo: Image.Image | None, labels: Tensor | None, factor: int
) -> tuple[int, int]:
    """Rows and columns in codes."""
    if size is not None:
        if size[0] % factor or size[1] % factor or not min(size):
            raise ValueError(f"both sides must be multiples of {factor}, got {size[0]}x{size[1]}")
        return size[0] // factor, size[1] // factor
    if photo is not None:
        return photo.height // factor, photo.width // factor
    if labels is not None:
        return labels.shape[0] // factor, labels.shape[1] // factor
    raise ValueError("say how large the image is to be, such as --size 1024x1024")


def _segmentation_codes(
    labels: Tensor, size: tuple[int, int], tokenizer: LoadedTokenizer | None, tiles: Tiling
) -> Tensor:
    """(1, h, w) codes of a label map of any size."""
    if tokenizer is None:
        return majority_label(labels, *size)[None].long()
    if tokenizer.model.config.num_labels is not None:
        only_labels(tokenizer.model.config.num_labels)(labels.numpy())
    factor: int = tokenizer.metadata["factor"]
    shape = (size[0] * factor, size[1] * factor)
    stretched = nn.functional.interpolate(labels[None, None].double(), shape, mode="nearest-exact")[:, 0].long()
    device = next(tokenizer.model.parameters()).device
    return tiling.encode(tokenizer.model, stretched.to(device), *tiles).cpu()


def check_table(condition: Condition, field: str, values: Tensor) -> None:
    """Refuse numbers that the condition has no vector for.

    Raises:
        ValueError: there is one.
    """
    smallest, largest = int(values.min()), int(values.max())
    known = condition.known.get(field, range(smallest, largest + 1))
    for value in (smallest, largest):
        if value not in known:
            raise ValueError(
                f"the prior knows {len(known)} numbers of {field}, {known.start} to {known.stop - 1}, got {value}"
            )
