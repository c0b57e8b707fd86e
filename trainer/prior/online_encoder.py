"""Encoding on line: frozen tokenizers turn a batch of pictures into the batch of codes that code shards would hold.

Shapes: B pictures of S x S pixels, (h, w) their grids of codes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ...models.conditions import Condition
from ...models.conditions.code_map import commonest
from ...models.conditions.low_resolution import LowResolution
from ..checkpoint.loading import Tokenizer
from ..data.inputs import Field, target
from ..images.resize import antialiased
from ..shards.fields import LOCATION_FIELDS

SOURCES: Mapping[str, Field] = {"map_codes": "map", "depth_codes": "depth"}
"""The field of pictures from which a condition's codes are made."""


class OnlineEncoder:
    """Makes what a prior reads from what a stream of pictures gives.

    Args:
        tokenizer: of the pictures.
        others: tokenizers by the field they encode, "map" or "depth". A map without one becomes the commonest label
            of each cell, as in code shards.
        condition: of the prior.

    Raises:
        ValueError: the condition reads codes of depth, and there is no tokenizer for them.
    """

    def __init__(self, tokenizer: Tokenizer, others: Mapping[str, Tokenizer], condition: Condition) -> None:
        if "depth_codes" in condition.fields and "depth" not in others:
            raise ValueError("the prior reads codes of depth; name their tokenizer under condition_tokenizers: depth")
        self._tokenizers: dict[str, Tokenizer] = {"picture": tokenizer, **others}
        self._conditions = [name for name in condition.fields if name in SOURCES]
        small = [part for part in condition.modules() if isinstance(part, LowResolution)]
        self._low = small[0].pixels if small else 0
        beside = [name for name in condition.fields if name not in (*SOURCES, *LOCATION_FIELDS, "low")]
        self.fields = ("picture", *(SOURCES[name] for name in self._conditions), *beside)

    @torch.no_grad()
    def __call__(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fields of a batch of pictures as those of a batch of codes, on this rank's device."""
        codes = self._codes("picture", fields["picture"])
        made = {"codes": codes}
        for name in self._conditions:
            source = SOURCES[name]
            if source in self._tokenizers:
                made[name] = self._codes(source, fields[source])
            else:
                cells = [commonest(labels.cpu().long(), *codes.shape[1:]) for labels in fields[source]]
                made[name] = torch.stack(cells).long().to(codes.device)
        if self._low:
            made["low"] = self._shrunk(fields["picture"], codes.shape[1] * self._low, codes.shape[2] * self._low)
        kept = {name: value for name, value in fields.items() if name not in ("picture", *SOURCES.values())}
        return kept | made

    def _codes(self, field: Field, values: Tensor) -> Tensor:
        codes: Tensor = self._tokenizers[field].model.encode(target({field: values}, field)).indices
        return codes

    def _shrunk(self, pictures: Tensor, height: int, width: int) -> Tensor:
        """(B, 3, height, width) uint8, made as the small pictures of code shards are."""
        rows = [np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()) for picture in pictures]
        small = np.stack([antialiased(row, (height, width)) for row in rows])
        return torch.from_numpy(small).permute(0, 3, 1, 2).to(pictures.device)
