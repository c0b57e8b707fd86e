"""Encoding on line: frozen tokenizers turn a batch of images into the batch of codes that code shards would hold.

Shapes: B images of S x S pixels, (h, w) their grids of codes.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...models.conditions import Condition
from ...models.conditions.code_map import majority_label
from ...models.conditions.low_resolution import LowResolution
from ...models.pixel_range import from_levels
from ..checkpoint.loading import LoadedTokenizer
from ..data.collate import Batch
from ..data.inputs import Field, target
from ..distributed import ranks
from ..images.resize import antialiased
from ..shards.fields import LOCATION_FIELDS

SOURCES: Mapping[str, Field] = {"segmentation_codes": "segmentation", "depth_codes": "depth"}
"""The field of images from which a condition's codes are made."""


class OnlineEncoder:
    """Makes what a prior reads from what a stream of images gives.

    Args:
        tokenizer: of the images.
        others: tokenizers by the field they encode, "segmentation" or "depth". A map without one becomes the
            commonest label
            of each cell, as in code shards.
        condition: of the prior.

    Raises:
        ValueError: the condition reads codes of depth, and there is no tokenizer for them.
    """

    def __init__(self, tokenizer: LoadedTokenizer, others: Mapping[str, LoadedTokenizer], condition: Condition) -> None:
        if "depth_codes" in condition.fields and "depth" not in others:
            raise ValueError("the prior reads codes of depth; name their tokenizer under condition_tokenizers: depth")
        self._tokenizers: dict[str, LoadedTokenizer] = {"image": tokenizer, **others}
        self._conditions = [name for name in condition.fields if name in SOURCES]
        small = [part for part in condition.modules() if isinstance(part, LowResolution)]
        self._low = small[0].pixels if small else 0
        beside = [name for name in condition.fields if name not in (*SOURCES, *LOCATION_FIELDS, "low")]
        self.fields = ("image", *(SOURCES[name] for name in self._conditions), *beside)

    @property
    def num_labels(self) -> int | None:
        """Labels of the maps' tokenizer; None where maps have none."""
        tokenizer = self._tokenizers.get("segmentation")
        return None if tokenizer is None else tokenizer.model.config.num_labels

    @torch.no_grad()
    def __call__(self, fields: Mapping[str, Tensor], seeds: Sequence[int]) -> dict[str, Tensor]:
        """The fields of a batch of images, on the host, as those of a batch of codes; nothing is drawn.

        What a network has made lies on this rank's device, everything else still on the host.
        """
        codes = self._codes("image", fields["image"])
        made = {"codes": codes}
        for name in self._conditions:
            source = SOURCES[name]
            if source in self._tokenizers:
                made[name] = self._codes(source, fields[source])
            else:
                cells = [majority_label(labels.long(), *codes.shape[1:]) for labels in fields[source]]
                made[name] = torch.stack(cells).long()
        if self._low:
            made["low"] = self._shrunk(fields["image"], codes.shape[1] * self._low, codes.shape[2] * self._low)
        kept = {name: value for name, value in fields.items() if name not in ("image", *SOURCES.values())}
        return kept | made

    def _codes(self, field: Field, values: Tensor) -> Tensor:
        codes: Tensor = self._tokenizers[field].model.encode(target({field: values}, field)).indices
        return codes

    def _shrunk(self, images: Tensor, height: int, width: int) -> Tensor:
        """(B, 3, height, width) uint8, made as the small images of code shards are."""
        rows = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
        small = np.stack([antialiased(row, (height, width)) for row in rows])
        return torch.from_numpy(small).permute(0, 3, 1, 2)


Encoder = Callable[[Mapping[str, Tensor], Sequence[int]], dict[str, Tensor]]


def coded(batch: Batch, encoder: Encoder | None, seeds: Sequence[int]) -> dict[str, Tensor]:
    """The codes of a batch and what conditions read, as a prior takes them, on this rank's device.

    Args:
        encoder: of a batch of images; None for one of codes.
        seeds: of what the encoder draws for each sample.
    """
    fields = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    if encoder is not None:
        fields = encoder(fields, seeds)
    fields = {name: value.to(ranks.device(), non_blocking=True) for name, value in fields.items()}
    if "low" in fields:
        fields["low"] = from_levels(fields["low"])
    return fields | {"codes": fields["codes"].long()}
