"""Objects of a scene as they go into a shard: classes, and boxes in pixels of the image."""

import io
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..images.geometry import Measured

ABSENT = -1  # the class of a place without an object, as ``models.conditions.objects`` reads it


class Objects(NamedTuple):
    """The n objects of an image, and how many places there are for some in every sample."""

    classes: NDArray[np.int32]  # (n,)
    boxes: NDArray[np.float64]  # (n, 4): left, top, right, bottom, as shares of the image's width and height
    places: int
    size: tuple[int, int] | None = None  # height and width in pixels of the image that they were drawn on, if known

    @property
    def digest(self) -> int:
        """A number that changes with them."""
        return zlib.crc32(f"{self.classes.tolist()} {self.boxes.tolist()} {self.places} {self.size}".encode())

    def members(self, measured: Measured, stored: Measured) -> dict[str, bytes]:
        """``object_classes.npy`` (places,) int32 and ``object_boxes.npy`` (places, 4) float32 in pixels.

        Args:
            measured: the image as it was.
            stored: as it is stored, in whose pixels the boxes are.

        Raises:
            ValueError: they were drawn on an image of another size.
        """
        if self.size is not None and self.size != (measured.height, measured.width):
            raise ValueError(
                f"its boxes are for an image of {self.size[1]} x {self.size[0]}, not of {measured.width} x "
                f"{measured.height}"
            )
        classes = np.full(self.places, ABSENT, np.int32)
        boxes = np.zeros((self.places, 4), np.float32)
        classes[: len(self.classes)] = self.classes
        sides = np.array([stored.width, stored.height] * 2)
        boxes[: len(self.boxes)] = self.boxes * sides
        return {"object_classes.npy": _npy(classes), "object_boxes.npy": _npy(boxes)}


def _npy(numbers: NDArray[np.int32] | NDArray[np.float32]) -> bytes:
    packed = io.BytesIO()
    np.save(packed, numbers, allow_pickle=False)
    return packed.getvalue()
