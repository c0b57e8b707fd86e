"""Random features, for comparing sets of images where no trained network can be had; their numbers compare with nothing
else."""

from pathlib import Path

import torch
from torch import Tensor, nn

SEED, SIDE, DIMENSIONS = 0, 32, 24


class RandomFeatures(nn.Module):
    """(B, 3, H, W) uint8 to (B, 24): means and deviations of random convolutions at 32 x 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 5, stride=2)
        self.second = nn.Conv2d(32, DIMENSIONS // 2, 5, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        small = nn.functional.interpolate(images.float() / 127.5 - 1, size=[32, 32], mode="area")
        found = torch.relu(self.second(torch.relu(self.first(small))))
        return torch.cat((found.mean((2, 3)), found.flatten(2).std(2)), dim=1)


def write_random(file: Path) -> None:
    """Leave the network as a TorchScript file, the same wherever torch's generator is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        scripted = torch.jit.script(RandomFeatures().eval())
    aside = file.with_suffix(".part")
    torch.jit.save(scripted, str(aside))
    aside.replace(file)
