"""The objects of a scene, by their boxes or their centers: Esser et al. 2021's scene models, with tables of their own.

Shapes: B samples, N objects, C channels of the prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..bounds import Count, Width, check_ranges
from .base import Fields
from .crop_position import Located

ABSENT = -1
"""The class of a place in ``objects`` that holds no object."""


@dataclass(frozen=True)
class ObjectsConfig:
    """Up to ``objects`` objects: ``object_classes`` (B, N) int64 and ``object_boxes`` (B, N, 4) in source pixels.

    The prefix has 3 tokens an object (class, top left, bottom right), or 2 for ``representation: center``, and 2 for
    the crop: 92 for 30 boxes. Positions are cells of a ``grid`` x ``grid`` raster laid over the whole source.

    Attributes multiply the classes, as published: an object of class c of C that is a group, occluded, depicted or
    inside is of class c + C * (group + 2 occluded + 4 depicted + 8 inside), so that ``classes`` is 2 C or 16 C.

    Attributes:
        representation: "box" gives both corners of each object, "center" the point between them.
        objects: places for objects in the prefix.
        classes: of objects, attributes multiplied in.
        grid: cells a side of the raster.
        only_in_crop: objects whose box does not meet the crop (in sampling: the window) are left out, and those that
            remain stand at the front, as published; else all are listed, wherever the crop lies.
        shuffle: in training objects come in another order at every visit, as published.
    """

    kind: Literal["objects"] = "objects"
    representation: Literal["box", "center"] = "box"
    objects: Width = 30
    classes: Count = 600
    grid: Width = 90
    only_in_crop: bool = False
    shuffle: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.grid < 2:
            raise ValueError(f"grid must be at least 2, got {self.grid}")

    def build(self, width: int, window: tuple[int, int]) -> "Objects":
        """The condition of a prior with ``width`` channels."""
        return Objects(self, width, window)


class Objects(Located):
    """Tokens of all objects one behind the other, then the crop's two corners; missing objects have their own token."""

    fields = (*Located.fields, "object_classes", "object_boxes")

    def __init__(self, config: ObjectsConfig, width: int, window: tuple[int, int]) -> None:
        corners = 2 if config.representation == "box" else 1
        super().__init__(config.objects * (1 + corners) + 2, width, window)
        self.config = config
        self.classes = nn.Embedding(config.classes + 1, width)  # the last one: no object
        self.places = nn.Embedding(config.grid**2 + 1, width)

    @property
    def known(self) -> dict[str, range]:
        """The classes of objects, and ``ABSENT``."""
        return {"object_classes": range(ABSENT, self.config.classes)}

    def for_training(self, fields: Fields, seeds: Sequence[int]) -> Fields:
        """The batch with the objects of each sample in an order of its own, where the config asks for it."""
        if not self.config.shuffle:
            return fields
        kinds, boxes = self.field(fields, "object_classes"), self.field(fields, "object_boxes")
        orders = [torch.randperm(kinds.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        order = torch.stack(orders).to(kinds.device, non_blocking=True)
        moved = {
            "object_classes": kinds.gather(1, order),
            "object_boxes": boxes.gather(1, order[..., None].expand_as(boxes)),
        }
        return {**fields, **moved}

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, P, C)."""
        kinds, boxes = self.field(fields, "object_classes"), self.field(fields, "object_boxes").float()
        wanted = (batch, self.config.objects)
        if kinds.shape != wanted or boxes.shape != (*wanted, 4):
            raise ValueError(
                f"object_classes must be {wanted} and object_boxes {(*wanted, 4)}, got {tuple(kinds.shape)} and "
                f"{tuple(boxes.shape)}; fill up with the class {ABSENT}, or leave the smallest objects out"
            )
        if self.config.only_in_crop:
            kinds, boxes = self._meeting(kinds, boxes, self.field(fields, "box").float())
        missing = kinds == ABSENT
        places = self._numbers(boxes, fields)
        if self.config.representation == "center":
            places = self._numbers((boxes + boxes.roll(2, dims=-1)) / 2, fields)[..., :1]
        places = places.masked_fill(missing[..., None], self.config.grid**2)
        names = self.classes(kinds.masked_fill(missing, self.config.classes))
        objects = torch.cat((names[:, :, None], self.places(places)), dim=2)
        crop: Tensor = self.places(self._numbers(self.field(fields, "box").float()[:, None], fields)[:, 0])
        return torch.cat((rearrange(objects, "b n part c -> b (n part) c"), crop), dim=1)

    @staticmethod
    def _meeting(kinds: Tensor, boxes: Tensor, crop: Tensor) -> tuple[Tensor, Tensor]:
        """The objects whose (B, N, 4) boxes share an area with the (B, 4) crop, in their order, at the front."""
        first = torch.maximum(boxes[..., :2], crop[:, None, :2])
        last = torch.minimum(boxes[..., 2:], crop[:, None, 2:])
        kinds = kinds.masked_fill((last <= first).any(-1), ABSENT)
        order = (kinds == ABSENT).int().argsort(dim=1, stable=True)
        return kinds.gather(1, order), boxes.gather(1, order[..., None].expand_as(boxes))

    def _numbers(self, boxes: Tensor, fields: Fields) -> Tensor:
        """(B, n, 2) raster cells of the corners (top left, bottom right) of (B, n, 4) boxes, mirrored with the crop."""
        height, width = self.field(fields, "source_size").float()[:, None].unbind(-1)
        left, top, right, bottom = boxes.unbind(-1)
        left, right = left / width, right / width
        flip = self.field(fields, "flip").bool()[:, None]
        left, right = torch.where(flip, 1 - right, left), torch.where(flip, 1 - left, right)
        x, y = torch.stack((left, right), dim=-1), torch.stack((top, bottom), dim=-1) / height[..., None]
        steps = self.config.grid - 1
        row, column = ((share * steps).round().long().clamp(0, steps) for share in (y, x))
        return row * self.config.grid + column
