"""Rows of images to the members of code shards: the grids of codes, and what belongs to the same part of an image.

A map or a depth becomes codes of the same cells: by a tokenizer of its own, or, for a map without one, the commonest
label of each cell, a vocabulary that needs no training.

Shapes: B rows, H and W the sides of a part of an image, (h, w) its grid of codes.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...models.conditions.code_map import majority_label
from ...models.pixel_range import from_levels
from ...models.vqgan import tiling
from ...models.vqgan.tiling import Tiling
from ..checkpoint.loading import LoadedTokenizer
from ..data.collate import LoadedSample
from ..distributed import ranks
from ..images.resize import antialiased
from ..shards.fields import IMAGE_FIELDS


class CodeMemberEncoder:
    """Makes members of a code shard.

    Args:
        tokenizer: of the images.
        others: tokenizers of other fields by the field's name, "segmentation" or "depth", of the same factor.
        with_maps: rows have a map, which becomes codes with or without a tokenizer.
        tiles: how whole images are encoded; None encodes every row at once.
        low: side of the small image that is kept beside a grid, in pixels a code; 0 for none.

    Raises:
        ValueError: the tokenizers have different factors.
    """

    def __init__(
        self,
        tokenizer: LoadedTokenizer,
        others: Mapping[str, LoadedTokenizer],
        with_maps: bool,
        tiles: Tiling | None,
        low: int,
    ) -> None:
        self.factor: int = tokenizer.metadata["factor"]
        for field, other in others.items():
            if other.metadata["factor"] != self.factor:
                raise ValueError(
                    f"the {field} tokenizer has factor {other.metadata['factor']} and the images' {self.factor}; "
                    "both must have a code for the same pixels"
                )
        self._tokenizers = {"image": tokenizer, **others}
        self._with_maps = with_maps
        self._tiles = tiles
        self._low = low

    def members(self, rows: Sequence[LoadedSample]) -> list[dict[str, bytes]]:
        """The members of rows, whose sides are multiples of the factor; those of one size are encoded together."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for number, row in enumerate(rows):
            sizes.setdefault(row["image"].shape, []).append(number)
        made: list[dict[str, bytes]] = [{}] * len(rows)
        for numbers in sizes.values():
            for number, members in zip(numbers, self._of_one_size([rows[n] for n in numbers]), strict=True):
                made[number] = members
        return made

    def _of_one_size(self, rows: Sequence[LoadedSample]) -> list[dict[str, bytes]]:
        grids = {"codes": self._codes("image", rows)}
        for field in ("segmentation", "depth"):
            if field in self._tokenizers:
                grids[f"{field}_codes"] = self._codes(field, rows)
        if self._with_maps and "segmentation" not in self._tokenizers:
            shape = grids["codes"].shape[1:]
            labels = [majority_label(torch.from_numpy(row["segmentation"].astype(np.int64)), *shape) for row in rows]
            grids["segmentation_codes"] = torch.stack(labels).numpy()
        return [
            {f"{name}.npy": _npy(grid[number]) for name, grid in grids.items()} | self._beside(row)
            for number, row in enumerate(rows)
        ]

    def _codes(self, field: str, rows: Sequence[LoadedSample]) -> NDArray[Any]:
        """(B, h, w) codes of a field, in the smallest type that code shards know."""
        tokenizer = self._tokenizers[field]
        pixels = torch.from_numpy(np.stack([row[field] for row in rows])).to(ranks.device())
        if field == "image":
            pixels = from_levels(pixels)
        elif field == "depth":
            pixels = pixels[:, None] * 2 - 1
        if self._tiles is None:
            with torch.no_grad():
                codes = tokenizer.model.encode(pixels).indices
        else:
            codes = tiling.encode(tokenizer.model, pixels, *self._tiles)
        number = np.uint16 if tokenizer.metadata["codes"] <= 1 << 16 else np.uint32
        return codes.cpu().numpy().astype(number)

    def _beside(self, row: LoadedSample) -> dict[str, bytes]:
        """Where the part lies in its image, and the part made small."""
        where = {"box": row["box"].tolist(), "source_size": row["source_size"].tolist(), "flip": bool(row["flip"])}
        members = {"json": json.dumps(where).encode()}
        if self._low:
            image = np.ascontiguousarray(row["image"].transpose(1, 2, 0))
            height, width = (side // self.factor * self._low for side in image.shape[:2])
            packed = io.BytesIO()
            Image.fromarray(antialiased(image, (height, width))).save(packed, "PNG")
            members["low.png"] = packed.getvalue()
        return members


def crop_to_codes(row: LoadedSample, factor: int) -> LoadedSample | None:
    """The row without the pixels at its right and bottom that do not fill a code; None if they fill not one."""
    height, width = row["image"].shape[-2:]
    rows, columns = height // factor * factor, width // factor * factor
    if not rows or not columns:
        return None
    if (height, width) == (rows, columns):
        return row
    left, top = row["box"][:2]
    cut = {field: row[field][..., :rows, :columns] for field in IMAGE_FIELDS if field in row}
    return {**row, **cut, "box": np.array([left, top, left + columns, top + rows], np.float32)}


def _npy(grid: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, grid)
    return file.getvalue()
