"""Pictures to code shards: whole grids of a tokenizer's codes, beside the codes of the pictures' maps.

A map needs no trained tokenizer: its code of a cell is the commonest label among the cell's pixels, and its vocabulary
is the labels. Every shard of pictures becomes one shard of codes, shard n by rank n modulo the number of ranks; a shard
that is finished is not made again, so a job that was killed goes on, on any number of ranks.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models import tiling
from . import ranks
from .faults import SampleError
from .fields import EXTENSIONS
from .index import Measured
from .inference import Tokenizer
from .pictures import decode_map, decode_picture
from .shard_writer import Sample, finished, write_shard
from .shards import ShardSet

LABELS = 256  # values of an 8-bit map


class Settings(NamedTuple):
    """How pictures are encoded; part of what the code shards say of themselves."""

    tile: int  # in codes, halo included
    halo: int  # in codes


def provenance(tokenizer: Tokenizer, settings: Settings, with_maps: bool) -> dict[str, Any]:
    """What code shards say of how they were made. A prior is trained only beside the tokenizer named here."""
    return {
        "tokenizer": tokenizer.card["digest"],
        "factor": tokenizer.card["factor"],
        "codes": tokenizer.card["codes"],
        "maps": {"kind": "commonest label", "labels": LABELS} if with_maps else None,
        "tile": settings.tile,
        "halo": settings.halo,
    }


def encode(
    tokenizer: Tokenizer, source: ShardSet, folder: Path, settings: Settings, say: Callable[[str], None]
) -> Counter[str]:
    """Encode every picture of the source into shards in the folder. Every rank must call this, with the same arguments.

    Returns:
        How many samples were encoded, were there already, or were left out, over this rank's shards.

    Raises:
        ValueError: the folder holds code shards that were made otherwise.
    """
    with_maps = _extension(source, 0, 0, "map") is not None
    made_as = provenance(tokenizer, settings, with_maps)
    count: Counter[str] = Counter()
    for shard in range(ranks.rank(), len(source.counts), ranks.world()):
        path = folder / Path(source.names[shard]).name
        index = finished(path)
        if index is not None:
            if index.provenance != made_as:
                raise ValueError(f"{path} was made as {index.provenance}, not as {made_as}; encode into another folder")
            count["there already"] += index.samples
            continue
        samples = _samples(tokenizer, source, shard, settings, with_maps, count, say)
        count["encoded"] += write_shard(path, samples, made_as)
        say(f"{path}: {source.counts[shard]} samples")
    return count


def _samples(
    tokenizer: Tokenizer,
    source: ShardSet,
    shard: int,
    settings: Settings,
    with_maps: bool,
    count: Counter[str],
    say: Callable[[str], None],
) -> Iterator[Sample]:
    """The samples of one shard; one that cannot be read is named, counted and left out."""
    for sample in range(source.counts[shard]):
        try:
            yield _encoded(tokenizer, source, shard, sample, settings, with_maps)
        except (SampleError, OSError, ValueError, SyntaxError) as error:
            count["left out"] += 1
            say(f"left out: {source.names[shard]} {source.key(shard, sample)}: {error}")


def _encoded(
    tokenizer: Tokenizer, source: ShardSet, shard: int, sample: int, settings: Settings, with_maps: bool
) -> Sample:
    factor: int = tokenizer.card["factor"]
    picture = decode_picture(_read(source, shard, sample, "picture"))
    rows, columns = (side // factor for side in picture.shape[:2])
    if not rows or not columns:
        raise ValueError(f"the picture is smaller than one code of {factor} x {factor} pixels")
    pixels = torch.from_numpy(picture[: rows * factor, : columns * factor].copy()).to(ranks.device())
    codes = tiling.encode(tokenizer.model, pixels.permute(2, 0, 1)[None].float() / 127.5 - 1, *settings)[0]
    number = np.uint16 if tokenizer.card["codes"] <= 1 << 16 else np.uint32
    members = {"codes.npy": _npy(codes.cpu().numpy().astype(number))}
    if with_maps:
        labels = decode_map(_read(source, shard, sample, "map"))
        members["map_codes.npy"] = _npy(commonest(torch.from_numpy(labels.astype(np.int64)), rows, columns).numpy())
    return Sample(source.key(shard, sample), members, Measured(rows * factor, columns * factor))


def commonest(labels: Tensor, rows: int, columns: int) -> Tensor:
    """The commonest label in each cell of a grid laid over a map; the lowest of those that are equally common.

    Args:
        labels: (H, W) integers in [0, 256).
        rows, columns: of the grid; a cell takes the map's pixels whose centres lie in it.

    Returns:
        (rows, columns) uint8.
    """
    height, width = labels.shape
    cell = (torch.arange(height) * rows // height)[:, None] * columns + torch.arange(width) * columns // width
    votes = torch.bincount((cell * LABELS + labels).flatten(), minlength=rows * columns * LABELS)
    return votes.view(rows, columns, LABELS).argmax(-1).to(torch.uint8)


def _extension(source: ShardSet, shard: int, sample: int, field: str) -> str | None:
    return next((e for e in EXTENSIONS[field] if source.has(shard, sample, e)), None)


def _read(source: ShardSet, shard: int, sample: int, field: str) -> bytes:
    extension = _extension(source, shard, sample, field)
    if extension is None:
        raise ValueError(f"it has no {field}; expected one of {', '.join(EXTENSIONS[field])}")
    return source.read(shard, sample, extension)


def _npy(grid: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, grid)
    return file.getvalue()
