"""Painting pictures with a prior and its tokenizer: PNG files that say how they were made."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..models import tiling
from ..models.sampling import Painting, SamplingConfig, sample
from .encoding import Settings, commonest
from .inference import Prior, Tokenizer
from .pictures import decode_map


class Wish(NamedTuple):
    """What is to be painted."""

    size: tuple[int, int]  # rows and columns, in codes
    fields: Mapping[str, Tensor]  # what the prior is told of one whole picture, a row each
    seed: int


def wish(
    prior: Prior, size: tuple[int, int] | None, map_file: Path | None, label: int | None, seed: int
) -> Wish:
    """Check what is asked against what the prior was trained on.

    Args:
        size: rows and columns in pixels; None takes the map's.
        map_file: a label map, for priors of maps.
        label: of the class, for priors of classes.

    Raises:
        ValueError: the prior needs a map or a class that is not given, or the size is no multiple of the factor.
    """
    factor: int = prior.card["factor"]
    needed = set(prior.model.condition.fields)
    labels = None if map_file is None else torch.from_numpy(decode_map(map_file.read_bytes()).astype(np.int64))
    if "map_codes" in needed and labels is None:
        raise ValueError("this prior paints what a map says; give one with --map")
    if "cls" in needed and label is None:
        raise ValueError("this prior paints a class; give its number with --class")
    if size is None:
        if labels is None:
            raise ValueError("say how large the picture is to be, such as --size 1024x1024")
        size = (labels.shape[0] // factor * factor, labels.shape[1] // factor * factor)
    if size[0] % factor or size[1] % factor:
        raise ValueError(f"both sides must be multiples of {factor}, got {size[0]}x{size[1]}")
    rows, columns = size[0] // factor, size[1] // factor
    fields: dict[str, Tensor] = {
        "box": torch.tensor([[0.0, 0.0, size[1], size[0]]]),
        "source_size": torch.tensor([[float(size[0]), float(size[1])]]),
        "flip": torch.tensor([False]),
    }
    if labels is not None:
        fields["map_codes"] = commonest(labels, rows, columns)[None].long()
    if label is not None:
        fields["cls"] = torch.tensor([label])
    return Wish((rows, columns), fields, seed)


def paint(
    prior: Prior, wanted: Wish, picture: int, config: SamplingConfig, progress: Callable[[Painting], None] | None
) -> Tensor:
    """The codes (1, h, w) of one picture; its number keys the randomness together with the seed."""
    return sample(prior.model, wanted.fields, wanted.size, (picture,), wanted.seed, config, progress=progress).codes


def develop(tokenizer: Tokenizer, codes: Tensor, settings: Settings) -> Image.Image:
    """The picture of (1, h, w) codes, decoded in tiles."""
    pixels = tiling.decode(tokenizer.model, codes, *settings)[0]
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def save(picture: Image.Image, path: Path, made: Mapping[str, Any]) -> None:
    """Write a PNG whose text chunk ``smalti`` says in JSON how it was made."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("smalti", json.dumps(dict(made), sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    picture.save(aside, format="PNG", pnginfo=notes)
    aside.replace(path)


def check_pair(prior: Prior, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that is not the one whose codes the prior learnt.

    Raises:
        ValueError: naming both.
    """
    learnt, given = prior.card["tokenizer"], tokenizer.card["digest"]
    if learnt != given:
        raise ValueError(
            f"the prior learnt the codes of the tokenizer {learnt[:12]}, and this one is {given[:12]}; name that one"
        )
