"""From what is known of an image to the fields that a prior's condition reads.

Shapes: one image of H x W pixels, its grid of h x w codes.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...models.conditions import Condition
from ...models.conditions.caption import Caption
from ...models.conditions.code_map import majority_label
from ...models.conditions.edit import MASKED
from ...models.conditions.low_resolution import LowResolution
from ...models.conditions.objects import ABSENT, Objects
from ...models.conditions.whole_image import Text
from ...models.pixel_range import from_levels
from ...models.vqgan import tiling
from ...models.vqgan.tiling import Tiling
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..images.decode import Pixels
from ..images.known_values import only_labels
from ..images.resize import antialiased

LOCATION = ("box", "source_size", "flip")
SUPPORTED = ("cls", "segmentation_codes", "depth_codes", "low", "text", "object_classes", "object_boxes", *LOCATION)
TOKENIZED = {"segmentation_codes": "segmentation", "depth_codes": "depth"}
"""Fields that are codes of a condition, and what their tokenizer encodes."""

Part = TypeVar("Part", bound=Condition)


class ObjectLayout(NamedTuple):
    """Objects of N classes, N at most what the prior knows, by their boxes on a canvas."""

    size: tuple[float, float]  # height and width of the canvas
    classes: Tensor  # (N,) int64
    boxes: Tensor  # (N, 4) float32: left, top, right, bottom, in pixels of the canvas


class ConditionValues(NamedTuple):
    """What is known of an image. Maps, depths and small images may have any size: they are laid over the image."""

    label: int | None = None
    segmentation: Tensor | None = None  # (H, W) int64
    depth: Tensor | None = None  # (H, W) float32, 0 to 1 being the range of a network
    low_resolution: Pixels | None = None  # (H, W, 3) uint8
    text: Tensor | None = None  # (tokens, channels) float32
    objects: ObjectLayout | None = None


class ConditionEncoder:
    """Makes the fields of whole images for one prior.

    Args:
        prior: whose condition reads them.
        tokenizers: of "segmentation" and "depth", where there are some.
        tiles: in which maps and depths are encoded.

    Raises:
        ValueError: the condition reads a field that is not known here, or a map or a depth would become codes otherwise
            than in training.
    """

    def __init__(self, prior: LoadedPrior, tokenizers: Mapping[str, LoadedTokenizer], tiles: Tiling) -> None:
        self._condition = prior.model.condition
        self._factor: int = prior.metadata["factor"]
        self._tokenizers, self._tiles = tokenizers, tiles
        if MASKED in self._condition.fields:
            raise ValueError("this prior makes a part of a photo anew; ask it by smalti edit")
        if unknown := sorted(set(self._condition.fields) - set(SUPPORTED)):
            raise ValueError(
                f"this prior reads {', '.join(unknown)}, which this command cannot tell it; sample it from Python"
            )
        for field, name in TOKENIZED.items():
            if field in self._condition.fields:
                check_tokenizer(prior, name, tokenizers.get(name))

    def grid(self, values: ConditionValues) -> tuple[int, int] | None:
        """Rows and columns in codes of the image that a map, depth, small image or layout is of, in this order."""
        factor = self._factor
        for pixels in (values.segmentation, values.depth):
            if pixels is not None:
                return pixels.shape[0] // factor, pixels.shape[1] // factor
        if values.low_resolution is not None:
            pixels_per_code = _part(self._condition, LowResolution).pixels
            height, width = values.low_resolution.shape[:2]
            return height // pixels_per_code, width // pixels_per_code
        if values.objects is not None:
            height, width = (int(side) for side in values.objects.size)
            return height // factor, width // factor
        return None

    def fields(self, values: ConditionValues, size: tuple[int, int]) -> dict[str, Tensor]:
        """What the condition reads of an image with a grid of ``size`` codes, one row each.

        Raises:
            ValueError: the prior has no vector for a number, or a text or a layout has another shape than in training.
        """
        height, width = size[0] * self._factor, size[1] * self._factor
        fields: dict[str, Tensor] = {
            "box": torch.tensor([[0.0, 0.0, width, height]]),
            "source_size": torch.tensor([[float(height), float(width)]]),
            "flip": torch.tensor([False]),
        }
        if values.label is not None:
            fields["cls"] = torch.tensor([values.label])
        if values.segmentation is not None:
            fields["segmentation_codes"] = self._segmentation_codes(values.segmentation, size)
        if values.depth is not None:
            stretched = _stretched(values.depth, (height, width)).float()
            fields["depth_codes"] = self._codes("depth", stretched[:, None] * 2 - 1)
        if values.low_resolution is not None:
            fields["low"] = self._small(values.low_resolution, size)
        if values.text is not None:
            fields["text"] = self._text(values.text)
        if values.objects is not None:
            fields |= self._objects(values.objects, (height, width))
        return self.checked(fields)

    def checked(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those fields that the condition reads.

        Raises:
            ValueError: the prior has no vector for a number of theirs.
        """
        for name in self._condition.known:
            check_table(self._condition, name, fields[name])
        return {name: fields[name] for name in self._condition.fields}

    def _segmentation_codes(self, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """(1, h, w) codes of a label map of any size."""
        tokenizer = self._tokenizers.get("segmentation")
        if tokenizer is None:
            return majority_label(labels, *size)[None].long()
        if tokenizer.model.config.num_labels is not None:
            only_labels(tokenizer.model.config.num_labels)(labels.numpy())
        stretched = _stretched(labels, (size[0] * self._factor, size[1] * self._factor))
        return self._codes("segmentation", stretched.long())

    def _codes(self, name: str, pixels: Tensor) -> Tensor:
        model = self._tokenizers[name].model
        return tiling.encode(model, pixels.to(next(model.parameters()).device), *self._tiles).cpu()

    def _small(self, image: Pixels, size: tuple[int, int]) -> Tensor:
        """(1, 3, h p, w p) in [-1, 1]: whole codes of the image as it is, or all of it brought to that size."""
        pixels = _part(self._condition, LowResolution).pixels
        wanted = (size[0] * pixels, size[1] * pixels)
        if (image.shape[0] // pixels, image.shape[1] // pixels) == size:
            image = image[: wanted[0], : wanted[1]]
        small = antialiased(np.ascontiguousarray(image), wanted)
        return from_levels(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None])

    def _text(self, text: Tensor) -> Tensor:
        wanted = next(part.text_shape for part in self._condition.modules() if isinstance(part, Text | Caption))
        if text.shape != wanted:
            raise ValueError(
                f"the prior reads texts of {wanted[0]} tokens with {wanted[1]} channels, got {tuple(text.shape)}; "
                "embed the text as those that it was trained on, and fill up with tokens of zeros"
            )
        return text[None]

    def _objects(self, layout: ObjectLayout, pixels: tuple[int, int]) -> dict[str, Tensor]:
        """The objects in pixels of the image, filled up to the number that the prior knows."""
        most, found = _part(self._condition, Objects).config.objects, len(layout.classes)
        if found > most:
            raise ValueError(f"the prior knows at most {most} objects, got {found}; leave the smallest ones out")
        scale = torch.tensor([pixels[1] / layout.size[1], pixels[0] / layout.size[0]]).repeat(2)
        classes = torch.full((1, most), ABSENT, dtype=torch.int64)
        boxes = torch.zeros(1, most, 4)
        classes[0, :found], boxes[0, :found] = layout.classes, layout.boxes * scale
        return {"object_classes": classes, "object_boxes": boxes}


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


def check_tokenizer(prior: LoadedPrior, name: str, tokenizer: LoadedTokenizer | None) -> None:
    """A map ("segmentation") or a depth must become codes as it did in training.

    Raises:
        ValueError: this tokenizer, or none, is not what made them then.
    """
    learnt = (prior.metadata.get("condition_tokenizers") or {}).get(name)
    given = None if tokenizer is None else str(tokenizer.metadata["digest"])
    if learnt is None and name == "depth":
        raise ValueError(
            "this prior does not say by which tokenizer its depths became codes, as its code shards did not; sample it "
            "from Python"
        )
    if learnt == given:
        return
    option, noun = f"--{name}-tokenizer", {"segmentation": "maps", "depth": "depths"}[name]
    found = "is missing" if given is None else f"is {given[:12]}"
    if learnt is None:
        raise ValueError(f"this prior learnt {noun} as the commonest label of each cell, and {option} {found}; omit it")
    raise ValueError(
        f"this prior learnt {noun} as codes of the tokenizer {learnt[:12]}, and {option} {found}; name the folder of "
        "that one"
    )


def _stretched(numbers: Tensor, pixels: tuple[int, int]) -> Tensor:
    """(1, H, W) float64 of a matrix of any size: each pixel takes the number where its middle lies."""
    return nn.functional.interpolate(numbers[None, None].double(), pixels, mode="nearest-exact")[:, 0]


def _part(condition: Condition, kind: type[Part]) -> Part:
    """The part of a condition that is of a kind."""
    return next(part for part in condition.modules() if isinstance(part, kind))
