"""The perceptual distance LPIPS of Zhang et al. 2018 over VGG16: frozen, in float32, without dropout.

Files are the caller's business: weights come in as dictionaries.

Shapes: B images, H rows, W columns; a tap is a (B, C, h, w) map of features with C from 64 to 512.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and number of convolutions between two poolings
SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's means and deviations, for images in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to a norm, outside its root


class VGG16(nn.Module):
    """The convolutions of Simonyan and Zisserman 2015, with taps after the last ReLU of each stage.

    Parameters are numbered ``features.N`` as in torchvision's file; the classifier is left out.
    """

    compiled_alone: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        self.taps: list[int] = []
        width = 3
        for out, convolutions in STAGES:
            if parts:
                parts.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                parts += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
                width = out
            self.taps.append(len(parts) - 1)
        self.features = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized (B, 3, H, W) images to five taps, widest grid first."""
        found = []
        for number, part in enumerate(self.features):
            x = part(x)
            if number in self.taps:
                found.append(x)
        return found


class LPIPS(nn.Module):
    """Distance of two images as people see it. Keep it out of any engine: it has nothing to train.

    Args:
        trunk: torchvision's VGG16 state dict, of which ``features.N.weight`` and ``.bias`` are read.
        heads: the lpips package's ``weights/v0.1/vgg.pth``: ``lin0.model.1.weight`` (1, C, 1, 1) to ``lin4...``.

    Raises:
        KeyError, RuntimeError: weights that are missing or of the wrong shape.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        convolutions = {name: value.detach() for name, value in trunk.items() if name.startswith("features.")}
        with torch.device("meta"):  # no weights are drawn that would be thrown away
            self.trunk = VGG16()
        self.trunk.load_state_dict(convolutions, assign=True)
        for number in range(len(STAGES)):
            head = heads[f"lin{number}.model.1.weight"].detach().float().clone()  # (1, C, 1, 1)
            self.register_buffer(f"head{number}", head)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        self.float().eval().requires_grad_(False)

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The distance of (B, 3, H, W) images in [-1, 1], each pair's own, (B,) float32."""
        return self.distance(self.features(real), fake)

    @torch.no_grad()
    def features(self, real: Tensor) -> list[Tensor]:
        """The taps of real images, each of unit length at each place, to be compared with any number of fakes."""
        return self._taps(real)

    def distance(self, real: list[Tensor], fake: Tensor) -> Tensor:
        """The distance of ``fake`` to the images of these ``features``, (B,) float32; gradients flow to ``fake``."""
        total = fake.new_zeros(len(fake), dtype=torch.float32)
        for number, (one, other) in enumerate(zip(real, self._taps(fake), strict=True)):
            gap = one - other
            # Not its square times the head, whose gradient would forget that the taps are stored channels-last.
            total = total + (gap * self.get_buffer(f"head{number}") * gap).sum(1).mean((1, 2))
        return total

    def _taps(self, images: Tensor) -> list[Tensor]:
        # Under bfloat16 the gradient is off by a sixth and more, growing as reconstructions get better.
        with torch.autocast(images.device.type, enabled=False):
            taps = self.trunk((images.float() - self.shift) / self.scale)
            return [tap / (tap.norm(dim=1, keepdim=True) + EPSILON) for tap in taps]
