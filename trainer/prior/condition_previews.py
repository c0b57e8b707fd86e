"""Conditions of a prior beside its previews: as they are, and as their tokenizers rebuild them.

Shapes: B samples, H rows and W columns of the shown images, N objects, (h, w) grids of codes.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint.loading import LoadedTokenizer
from ..data.inputs import target
from ..training.color_maps import color_coded, palette, three_channels
from .online_encoder import SOURCES

PAPER, CROP = 1.0, -1.0  # white of the page that boxes are drawn on, black of the crop's own frame


def condition_rows(
    batch: Mapping[str, Tensor],
    fields: Mapping[str, Tensor],
    tokenizers: Mapping[str, LoadedTokenizer],
    size: tuple[int, int],
) -> list[Tensor]:
    """Rows of color images, (B, 3, H, W) in [-1, 1] each; none for conditions that are no images.

    Args:
        batch: as the stream gave it: maps and depths where images are encoded on line.
        fields: what the condition reads.
        tokenizers: of maps and depths by the field that they encode; a map without one has a label a code.
        size: (H, W).
    """
    rows = []
    for name, field in SOURCES.items():
        if name not in fields:
            continue
        if field in batch:
            values = target(dict(batch), field)
            rows.append(color_coded(values) if field == "segmentation" else values)
        if field in tokenizers:
            rebuilt = tokenizers[field].decode(fields[name])
            rows.append(color_coded(rebuilt) if field == "segmentation" else rebuilt.float())
        else:
            rows.append(color_coded(fields[name]))
    if "low" in fields:
        rows.append(fields["low"].float())
    if "object_boxes" in fields:
        rows.append(drawn_boxes(fields, size))
    return [F.interpolate(three_channels(row), size, mode="nearest") for row in rows]


def drawn_boxes(fields: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W): objects of the whole image as frames in the colors of their classes, and the crop's, black."""
    kinds, boxes = fields["object_classes"].cpu(), fields["object_boxes"].cpu().float()
    pages = torch.full((len(boxes), 3, *size), PAPER)
    colors = palette(pages.device)
    for page, classes, around, crop, source in zip(
        pages, kinds, boxes, fields["box"].cpu().float(), fields["source_size"].cpu().float(), strict=True
    ):
        scale = torch.tensor([size[1] / source[1], size[0] / source[0]]).repeat(2)
        for kind, box in zip(classes.tolist(), around * scale, strict=True):
            if kind >= 0:
                _frame(page, box, colors[kind % (len(colors) - 1)])
        _frame(page, crop * scale, torch.full((3,), CROP))
    return pages.to(fields["object_boxes"].device)


def _frame(page: Tensor, box: Tensor, color: Tensor) -> None:
    """Draw the border of a box, one pixel wide, inside a (3, H, W) page."""
    height, width = page.shape[1:]
    left, right = _inside(box[0].floor(), width), _inside(box[2].ceil() - 1, width)
    top, bottom = _inside(box[1].floor(), height), _inside(box[3].ceil() - 1, height)
    page[:, [top, bottom], left : max(right, left) + 1] = color[:, None, None]
    page[:, top : max(bottom, top) + 1, [left, right]] = color[:, None, None]


def _inside(edge: Tensor, length: int) -> int:
    return int(edge.clamp(0, length - 1))
