"""A frozen ImageNet classifier that a reconstruction should not confuse: ResNet-50 of He et al. 2016.

Shapes: B images, H rows, W columns, C channels. Parameters are named as in torchvision's file.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width and number of blocks; a block leaves four times its width
EXPANSION = 4
CLASSES = 1000
SIDE = 224  # pixels that the classifier was trained on
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's images in [0, 1]
DEVIATION = (0.229, 0.224, 0.225)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the 3x3 one carries the stride, as torchvision has it."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        plain = stride == 1 and channels == out
        carried = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.downsample = nn.Identity() if plain else carried

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 width, H/stride, W/stride)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.downsample(x))


class ResNet50(nn.Module):
    """Normalized images to logits of the 1000 classes of ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for number, (width, blocks) in enumerate(STAGES):
            strides = [1 if number == 0 else 2] + [1] * (blocks - 1)
            inputs = [channels] + [width * EXPANSION] * (blocks - 1)
            stage = (Bottleneck(entering, width, stride) for entering, stride in zip(inputs, strides, strict=True))
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
            channels = width * EXPANSION
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1000)."""
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for number in range(len(STAGES)):
            h = self.get_submodule(f"layer{number + 1}")(h)
        return self.fc(h.mean((2, 3)))  # type: ignore[no-any-return]


class LogitLoss(nn.Module):
    """The squared difference of a frozen classifier's logits: Weber et al. 2024 (MaskBit), section 3.

    Reported Frechet distances look at a classifier too: say so where this loss was used. Keep it out of any engine.

    Args:
        weights: torchvision's ResNet-50 state dict.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        with torch.device("meta"):  # no weights are drawn that would be thrown away
            self.classifier = ResNet50()
        self.classifier.load_state_dict({name: value.detach() for name, value in weights.items()}, assign=True)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None])
        self.float().requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "LogitLoss":
        """Stays in evaluation, whatever the network around it does: its batch statistics are frozen."""
        return super().train(False)

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Of (B, 3, H, W) images in [-1, 1], the mean over classes for each pair, (B,) float32."""
        with torch.no_grad():
            wanted = self.logits(real)
        return (self.logits(fake) - wanted).square().mean(1)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in [-1, 1] to (B, 1000) float32."""
        with torch.autocast(images.device.type, enabled=False):
            sized = images.float()
            if sized.shape[2:] != (SIDE, SIDE):
                sized = F.interpolate(sized, size=(SIDE, SIDE), mode="bilinear", antialias=True)
            return self.classifier(((sized + 1) / 2 - self.mean) / self.deviation)  # type: ignore[no-any-return]
