"""Requests out of shards: one for every sample, under its maps, depths, class, text, objects or small image.

Shapes: the image of a sample has H x W pixels, its grid h x w codes.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...models.pixel_range import from_levels
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..data.code_samples import CodeReader
from ..data.collate import LoadedSample
from ..data.image_samples import ImageReader
from ..images.geometry import Crop
from ..shards.fields import LOCATION_FIELDS, PROVENANCE_KEYS
from ..shards.index import SampleLocation
from ..shards.reader import ShardSet
from .condition_fields import TOKENIZED, ConditionEncoder, ConditionValues, ObjectLayout
from .request import SampleRequest, build_request

_SOURCES = {"segmentation_codes": "segmentation", "depth_codes": "depth", "low": "image"}
"""From which field of images a field of the condition is made."""


class SampleNames:
    """The samples of a set by number, and files of their names.

    Raises:
        ValueError: two samples have one key.
    """

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self._ends = np.cumsum(shards.counts)  # of each shard: the number of the first sample behind it
        keys = Counter(_plain(shards.key(*self.location(number))) for number in range(shards.samples))
        twice, often = keys.most_common(1)[0] if keys else ("", 0)
        if often > 1:
            raise ValueError(f"{often} samples have the key {twice!r}, and so one file; take the sets apart")

    def location(self, number: int) -> SampleLocation:
        """Where a sample lies."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return SampleLocation(shard, number - int(self._ends[shard]) + self.shards.counts[shard])

    def path(self, number: int) -> Path:
        """The sample's key as a path without suffix that leads nowhere but below a folder.

        Raises:
            SampleError: it does not.
        """
        location = self.location(number)
        key = self.shards.key(*location)
        parts = _plain(key).split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in key:
            raise self.shards.sample_error(*location, "damaged member", f"its key {key!r} is no path below a folder")
        return Path(*parts)


def _plain(key: str) -> str:
    """A key without the ``./`` that ``tar -C FOLDER .`` puts before every name."""
    return key.removeprefix("./")


class ShardRequests:
    """What to sample for each sample of a set.

    Code shards give what a prior was trained on: the condition's own codes on grids of their size. Image shards give
    maps, depths and small images, which are laid over an image of ``size``, or of the sample's own size as far as whole
    codes go.

    Args:
        shards: of images or of codes.
        prior, tokenizer: a pair.
        conditions: of the prior.
        size: rows and columns in pixels of all images; None for each sample's own.

    Raises:
        ValueError: the set lacks a field that the prior reads, its codes were made by other tokenizers than those of
            training, two samples have one key, or a size is given for code shards.
    """

    def __init__(
        self,
        shards: ShardSet,
        prior: LoadedPrior,
        tokenizer: LoadedTokenizer,
        conditions: ConditionEncoder,
        size: tuple[int, int] | None,
    ) -> None:
        self.shards = shards
        self._conditions, self._tokenizer, self._size = conditions, tokenizer, size
        self._read = [name for name in prior.model.condition.fields if name not in LOCATION_FIELDS]
        self._codes = shards.has_field("codes")
        self._reader: CodeReader | ImageReader[ShardSet]
        if self._codes:
            if size is not None:
                raise ValueError("grids of codes have their sizes; omit --size, or give shards of images")
            _check_tokenizers(shards, prior)
            self._reader = CodeReader(shards, ("codes", *self._read), None, {}, {})
        else:
            fields = dict.fromkeys(_SOURCES.get(name, name) for name in self._read)
            self._reader = ImageReader(shards, tuple(fields), None, {}, {})
        self._reader.check_fields()
        self._names = SampleNames(shards)

    def __len__(self) -> int:
        return self.shards.samples

    def key(self, number: int) -> Path:
        """See ``SampleNames.path``."""
        return self._names.path(number)

    def request(self, number: int) -> SampleRequest:
        """The request of a sample.

        Raises:
            SampleError: a member is missing or damaged, or holds what the prior does not know.
        """
        place = self._names.location(number)
        (row,) = self._reader.read(place, lambda _, height, width: [Crop(0, 0, width, height)])
        try:
            return self._of_codes(row) if self._codes else self._of_image(row)
        except ValueError as error:
            raise self.shards.sample_error(*place, "out of range", str(error)) from error

    def _of_codes(self, row: LoadedSample) -> SampleRequest:
        fields = {name: torch.as_tensor(row[name])[None] for name in (*self._read, *LOCATION_FIELDS)}
        if "low" in fields:
            fields["low"] = from_levels(fields["low"])
        height, width = row["codes"].shape
        return SampleRequest((height, width), self._conditions.checked(fields), None)

    def _of_image(self, row: LoadedSample) -> SampleRequest:
        height, width = (int(side) for side in row["source_size"])
        values = ConditionValues(
            row.get("cls"),
            _tensor(row, "segmentation", np.int64),
            _tensor(row, "depth", np.float32),
            row["image"].transpose(1, 2, 0) if "image" in row else None,
            _tensor(row, "text", np.float32),
            _layout(row, (height, width)) if "object_classes" in row else None,
        )
        size = self._size
        if size is None and self._conditions.grid(values) is None:
            factor: int = self._tokenizer.metadata["factor"]
            size = (height // factor * factor, width // factor * factor)
        return build_request(self._tokenizer, self._conditions, values, size)


def _tensor(row: LoadedSample, name: str, dtype: Any) -> torch.Tensor | None:
    return torch.from_numpy(row[name].astype(dtype)) if name in row else None


def _layout(row: LoadedSample, size: tuple[int, int]) -> ObjectLayout:
    """The objects of a sample without the places that hold none."""
    classes, boxes = torch.from_numpy(row["object_classes"]), torch.from_numpy(row["object_boxes"])
    there = classes >= 0
    return ObjectLayout(size, classes[there].long(), boxes[there].float())


def _check_tokenizers(shards: ShardSet, prior: LoadedPrior) -> None:
    """Codes of conditions must be those of the tokenizers that the prior learnt them by."""
    learnt = prior.metadata.get("condition_tokenizers") or {}
    for field, name in TOKENIZED.items():
        if field in prior.model.condition.fields:
            said = (shards.provenance.get(PROVENANCE_KEYS[name]) or {}).get("tokenizer")
            if said != learnt.get(name):
                raise ValueError(
                    f"this prior learnt {field} by {json.dumps(learnt.get(name))}, and those in {shards.names[0]} were "
                    f"made by {json.dumps(said)} (null: the commonest labels); encode the images with that tokenizer"
                )
