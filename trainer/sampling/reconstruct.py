"""Reconstructions: every image of a set beside what a tokenizer makes of it, or the images that codes stand for.

Shapes: B images of H x W pixels, their grids of h x w codes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...models.bounds import Width, check_ranges
from ...models.pixel_range import from_levels, to_levels
from ...models.vqgan import tiling
from ..checkpoint.loading import LoadedTokenizer
from ..data.code_samples import CodeReader
from ..data.crops import CropConfig, TamingCropConfig
from ..data.image_samples import ImageReader
from ..images.geometry import Crop
from ..images.known_values import only
from ..shards.reader import ShardSet
from .image_files import DecodeConfig, read_metadata, save
from .shard_requests import SampleNames
from .whole_set import LeftOut, SetReport, walk_set

ORIGINALS, RECONSTRUCTIONS = "originals", "reconstructions"


@dataclass(frozen=True)
class ReconstructConfig:
    """Which part of images is seen, and how.

    Attributes:
        crop: whose middle is cut, as validation does; None takes images whole, as far as whole codes go.
        decode: how whole images are encoded and codes decoded, in the same tiles.
        batch: images of one size that the network sees at once.
    """

    crop: CropConfig | TamingCropConfig | None
    decode: DecodeConfig
    batch: Width = 16

    def __post_init__(self) -> None:
        check_ranges(self)


class _Pair(NamedTuple):
    """One image of the set."""

    place: int
    source: Tensor  # (3, H, W) uint8, or (h, w) int64 codes
    key: Path
    made: dict[str, Any]  # how it is made, for the metadata


def reconstruct_set(
    shards: ShardSet, tokenizer: LoadedTokenizer, out: Path, config: ReconstructConfig, say: Callable[[str], None]
) -> SetReport:
    """Write ``originals/KEY.png`` and ``reconstructions/KEY.png`` of image shards, ``KEY.png`` of code shards.

    Every rank must call this; see ``walk_set``. Pairs that are there are left alone, so that a killed job goes on.

    Raises:
        ValueError: the tokenizer is not one of images, or not the one that made the codes; or another file has the name
            of one of the images.
    """
    return walk_set(shards.samples, 1, config.batch, say, _Reconstructor(shards, tokenizer, out, config))


class _Reconstructor:
    """Makes the files of a batch of places."""

    def __init__(self, shards: ShardSet, tokenizer: LoadedTokenizer, out: Path, config: ReconstructConfig) -> None:
        network = tokenizer.model.config
        if network.num_labels is not None or network.in_channels != 3:
            raise ValueError("the tokenizer must be one of images; this one is of maps or depths")
        self._names = SampleNames(shards)
        self._tokenizer, self._out, self._config = tokenizer, out, config
        self._codes = shards.has_field("codes")
        digest = tokenizer.metadata["digest"]
        self._reader: CodeReader | ImageReader[ShardSet]
        if self._codes:
            if config.crop is not None:
                raise ValueError("grids of codes are decoded whole; omit the crop's size")
            if shards.provenance.get("tokenizer") != digest:
                raise ValueError(
                    f"the codes in {shards.names[0]} were made by the tokenizer "
                    f"{str(shards.provenance.get('tokenizer'))[:12]}, and this one is {digest[:12]}; name that one"
                )
            known = only(range(tokenizer.metadata["codes"]))
            self._reader = CodeReader(shards, ("codes",), None, {}, {"codes": known})
        else:
            self._reader = ImageReader(shards, ("image",), config.crop, {}, {})
        self._reader.check_fields()
        self._reader.check_sides()
        self._made = {"tokenizer": digest, "decoded": repr(config.decode), "cut": repr(config.crop)}

    def __call__(self, places: range, left_out: LeftOut) -> dict[int, Path]:
        pairs: list[_Pair] = []
        for place in places:
            with left_out.leaving_out(place):
                pairs.append(self._read(place))
        for _, alike in groupby(pairs, lambda pair: pair.source.shape):
            self._write(list(alike))
        return {pair.place: self._path(pair, RECONSTRUCTIONS) for pair in pairs}

    def _read(self, place: int) -> _Pair:
        location = self._names.location(place)
        key = self._names.path(place)
        (row,) = self._reader.read(location, self._whole)
        source = torch.from_numpy(row["codes" if self._codes else "image"].copy())  # a row may be read-only
        factor: int = self._tokenizer.metadata["factor"]
        if not self._codes:
            height, width = (side // factor * factor for side in source.shape[1:])
            if not height or not width:
                raise self._names.shards.sample_error(*location, "too small", f"it fills no code of {factor} pixels")
            source = source[:, :height, :width]
        return _Pair(place, source, key, {**self._made, "sample": row["key"], "box": row["box"].tolist()})

    def _whole(self, key: str, height: int, width: int) -> list[Crop]:
        crop = self._config.crop
        return [Crop(0, 0, width, height) if crop is None else crop.center(height, width)]

    def _write(self, pairs: list[_Pair]) -> None:
        """The files of some images of one size, made together so that each is the same however often this is begun."""
        kinds = [RECONSTRUCTIONS] if self._codes else [RECONSTRUCTIONS, ORIGINALS]
        there = {(pair.place, kind) for pair in pairs for kind in kinds if self._is_there(self._path(pair, kind), pair)}
        if len(there) == len(pairs) * len(kinds):
            return
        sources = torch.stack([pair.source for pair in pairs])
        for pair, rebuilt in zip(pairs, self._rebuilt(sources), strict=True):
            for kind in kinds:
                if (pair.place, kind) not in there:
                    levels = rebuilt if kind == RECONSTRUCTIONS else pair.source
                    pixels = np.ascontiguousarray(levels.permute(1, 2, 0).numpy())
                    save(Image.fromarray(pixels), self._path(pair, kind), pair.made)

    @torch.no_grad()
    def _rebuilt(self, sources: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 of images or of their codes."""
        model, decode = self._tokenizer.model, self._config.decode
        codes = sources.to(next(model.parameters()).device)
        if not self._codes:
            codes = tiling.encode(model, from_levels(codes), decode.tile, decode.halo, decode.manner)
        return to_levels(tiling.decode(model, codes, decode.tile, decode.halo, decode.manner)).byte()

    def _path(self, pair: _Pair, kind: str) -> Path:
        folder = self._out if self._codes else self._out / kind
        return folder / pair.key.parent / f"{pair.key.name}.png"

    def _is_there(self, path: Path, pair: _Pair) -> bool:
        if not path.exists():
            return False
        if read_metadata(path) != pair.made:
            raise ValueError(
                f"{path} is there and was made otherwise (another tokenizer, set or setting), or is not by this "
                "command; move it away, or choose another --out"
            )
        return True
