"""A frozen network that names every pixel of an image.

Shapes: B images of H x W pixels, N labels.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..distributed import ranks
from ..files import sha256
from . import torchscript


class Segmenter(NamedTuple):
    """A segmentation network on this rank's device."""

    name: str
    digest: str  # the SHA-256 of its file
    network: Any
    labels: int  # N

    def find(self, levels: Tensor) -> Tensor:
        """(B, H, W) the label of every pixel of (B, 3, H, W) uint8 images."""
        with torchscript.plain_execution():
            found: Tensor = self.network(levels).argmax(dim=1)
        return found

    def protocol(self) -> dict[str, Any]:
        """What scores of its labels must say of it."""
        return {"segmenter": f"{self.name}, {self.labels} labels", "segmenter_sha256": self.digest}


def load_segmenter(path: Path, side: int) -> Segmenter:
    """The network of a TorchScript file: (B, 3, H, W) uint8 in, (B, N, H, W) scores of its labels out.

    Args:
        side: of the images that it will get, in pixels; a black one is tried.

    Raises:
        ValueError: it cannot be read, or does not take or give such tensors.
    """
    network = torchscript.load(path, ranks.device())
    try:
        with torchscript.plain_execution():
            tried = network(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=ranks.device()))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} does not take uint8 images of 3 x {side} x {side}: {torchscript.first_line(error)}"
        ) from None
    if not isinstance(tried, Tensor) or tried.dim() != 4 or tried.shape[2:] != (side, side):
        raise ValueError(
            f"{path} gives {tuple(getattr(tried, 'shape', ()))} for an image of {side} x {side}, and must give "
            f"(1, N, {side}, {side}), a score of each label for each pixel"
        )
    return Segmenter(path.name, sha256(path), network, tried.shape[1])
