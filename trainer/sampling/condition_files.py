"""Conditions of one image as a user has them: files of maps, depths, small images, texts and objects, and a class."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import bounded_json
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..files import read_regular
from ..images.decode import LARGEST, Pixels, decode_depth, decode_image, decode_map
from .condition_fields import TOKENIZED, ConditionValues, ObjectLayout

_LARGEST_TEXT = 1 << 28  # bytes
_LARGEST = 1e6  # pixels of a side
_OPTIONS = {
    "cls": ("label", "--class", "a class; give its number"),
    "segmentation_codes": ("segmentation", "--segmentation", "what a map says; give one"),
    "depth_codes": ("depth", "--depth", "what a depth map says; give one"),
    "low": ("low_resolution", "--low-resolution", "a small image anew; give it"),
    "text": ("text", "--text", "what a text says; give its embeddings"),
    "object_classes": ("objects", "--objects", "objects at their places; give them"),
}
"""By the field that needs it: the input, its option, and how a prior without it asks for it."""

Value = TypeVar("Value")


class ConditionInputs(NamedTuple):
    """What a user may say of an image."""

    label: int | None = None  # of a class
    segmentation: Path | None = None  # a label map, of any size
    depth: Path | None = None  # an image or .npy of depths, of any size
    low_resolution: Path | None = None  # a small image
    text: Path | None = None  # .npy (tokens, channels)
    objects: Path | None = None  # JSON, see ``read_objects``
    tokenizers: Mapping[str, LoadedTokenizer] = {}  # of "segmentation" and "depth"


def check_inputs(prior: LoadedPrior, given: ConditionInputs) -> None:
    """Make sure that a prior is given all that it reads, and nothing else.

    Raises:
        ValueError: naming the option that is missing, or is too much.
    """
    needed = prior.model.condition.fields
    tokenizers = {field: given.tokenizers.get(name) for field, name in TOKENIZED.items()}
    for field, (name, option, asks) in _OPTIONS.items():
        value = getattr(given, name)
        if field in needed and value is None:
            raise ValueError(f"this prior samples {asks} with {option}")
        for said, spelled in ((value, option), (tokenizers.get(field), f"{option}-tokenizer")):
            if said is not None and field not in needed:
                raise ValueError(f"this prior reads {', '.join(needed) or 'nothing'}; omit {spelled}")


def read(given: ConditionInputs) -> ConditionValues:
    """The contents of the files.

    Raises:
        ValueError: one cannot be read, or is not what it should be.
    """
    return ConditionValues(
        given.label,
        _read("map", given.segmentation, _map),
        _read("depth map", given.depth, lambda data: torch.from_numpy(decode_depth(data).copy())),
        _read("small image", given.low_resolution, _image),
        _read("text", given.text, read_text, _LARGEST_TEXT),
        _read("layout", given.objects, read_objects, bounded_json.MOST_BYTES),
    )


def _read(what: str, path: Path | None, decode: Callable[[bytes], Value], limit: int = LARGEST) -> Value | None:
    if path is None:
        return None
    try:
        return decode(read_regular(path, limit))
    except Exception as error:  # decoders raise whatever the damage leads them to
        raise ValueError(f"the {what} {path} cannot be used: {error}") from error


def _map(data: bytes) -> Tensor:
    return torch.from_numpy(decode_map(data).astype(np.int64))


def _image(data: bytes) -> Pixels:
    return decode_image(data)


def read_text(data: bytes) -> Tensor:
    """The (tokens, channels) float32 embeddings of a text in a ``.npy`` file.

    Raises:
        ValueError: they are no matrix of finite numbers.
    """
    text = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(text, np.ndarray) or text.ndim != 2 or text.dtype.kind != "f" or not np.isfinite(text).all():
        raise ValueError("a text is a matrix (tokens, channels) of finite floating-point numbers in a .npy file")
    return torch.from_numpy(text.astype(np.float32))


def read_objects(data: bytes) -> ObjectLayout:
    """Objects out of JSON: ``{"size": [height, width], "objects": [{"class": 3, "box": [l, t, r, b]}, ...]}``.

    Boxes are left, top, right, bottom in pixels of a canvas of that size, which is laid over the image.

    Raises:
        ValueError: it is not of this form, or a box is empty or leaves the canvas.
    """
    said = bounded_json.parsed(data)
    if not isinstance(said, dict) or said.keys() != {"size", "objects"} or not isinstance(said["objects"], list):
        raise ValueError('it must be {"size": [height, width], "objects": [{"class": 3, "box": [l, t, r, b]}, ...]}')
    height, width = _numbers(said["size"], 2, "size")
    if min(height, width) <= 0:
        raise ValueError(f"size must be a height and a width above 0, got {said['size']}")
    classes, boxes = [], []
    for number, each in enumerate(said["objects"]):
        if not isinstance(each, dict) or each.keys() != {"class", "box"} or type(each["class"]) is not int:
            raise ValueError(
                f'objects[{number}] must be {{"class": whole number, "box": [l, t, r, b]}}, got {each!r:.80}'
            )
        left, top, right, bottom = _numbers(each["box"], 4, f"objects[{number}].box")
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"objects[{number}].box must be left < right and top < bottom inside of {width:g} x {height:g} pixels, "
                f"got {each['box']}"
            )
        if not 0 <= each["class"] < 1 << 31:
            raise ValueError(f"objects[{number}].class must be the number of a class, got {each['class']}")
        classes.append(each["class"])
        boxes.append([left, top, right, bottom])
    return ObjectLayout(
        (height, width), torch.tensor(classes, dtype=torch.int64), torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    )


def _numbers(said: Any, count: int, name: str) -> list[float]:
    numbers = said if isinstance(said, list) else []
    if len(numbers) != count or any(type(each) not in (int, float) or not abs(each) < _LARGEST for each in numbers):
        raise ValueError(f"{name} must be {count} numbers below {_LARGEST:g}, got {said!r:.80}")
    return [float(each) for each in numbers]
