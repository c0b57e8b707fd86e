"""A frozen network that says how far every pixel of an image is, such as MiDaS.

Shapes: H x W pixels.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..distributed import ranks
from ..files import sha256
from . import torchscript


class DepthNetwork(NamedTuple):
    """A depth network on this rank's device."""

    path: Path
    digest: str  # the SHA-256 of its file
    network: Any

    def find(self, levels: Tensor) -> Tensor:
        """(H, W) float32 depth of a (3, H, W) uint8 image, in the network's own units.

        Raises:
            ValueError: the network does not give a finite number for each pixel.
        """
        height, width = levels.shape[1:]
        try:
            with torchscript.plain_execution():
                found = self.network(levels[None])
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{self.path} does not take uint8 images of 3 x {height} x {width}: {torchscript.first_line(error)}"
            ) from None
        if not isinstance(found, Tensor) or found.numel() != height * width or found.shape[-2:] != (height, width):
            raise ValueError(
                f"{self.path} gives {tuple(getattr(found, 'shape', ()))} for an image of {height} x {width}, and must "
                f"give (1, {height}, {width}), a depth for each pixel"
            )
        if not bool(found.isfinite().all()):
            raise ValueError(f"{self.path} gives NaN or infinity")
        return found.reshape(height, width).to(torch.float32)


def load_depth_network(path: Path) -> DepthNetwork:
    """The network of a TorchScript file: (1, 3, H, W) uint8 in, (1, H, W) or (1, 1, H, W) depth out.

    Resizing and normalizing are its own business.

    Raises:
        ValueError: it cannot be read.
    """
    network = torchscript.load(path, ranks.device())
    return DepthNetwork(path, sha256(path), network)
