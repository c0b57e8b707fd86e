"""Trains a network that names every pixel of a landscape: ``python -m smalti.launch.demo.segmenter SHARDS OUT.pt``.

It judges images that were made from a label map, by the share of pixels that are what the map says. It learns from
landscapes and their maps alone, from nothing that was made: from crops of all scales, half of them shown coarse
and in colors that are a little wrong, as what small tokenizers rebuild is. Edits make what no landscape has, such as
sand up to the horizon, which a network that goes by the rest of the image takes for sky: with ``--pasted`` some crops
hold parts of others, with their labels, so that what a place looks like counts.

The file is TorchScript, as ``--segmenter`` of ``smalti evaluate`` takes it: (B, 3, H, W) uint8 to (B, N, H, W) scores
of N labels, for images of any size.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ...models.metrics.confusion import confusion, mean_iou, pixel_accuracy
from ...trainer.data.crops import CropConfig
from ...trainer.data.stream import Batch, DataConfig, Stream
from ...trainer.exit_code import ExitCode
from ...trainer.files import whole_file
from ...trainer.frozen_networks.segmenters import Segmenter, load_segmenter
from .. import command
from .scene import LABELS

FIELDS = ("image", "segmentation")
CHANNELS = (24, 48, 96, 128)
CROP, BATCH, PEAK_RATE, COARSEST = 128, 16, 4e-3, 8
GAIN, SHIFT, NOISE = 0.08, 8.0, 6.0  # of colors, in levels; a reconstruction of 27 dB is 11 levels off
SHIFT_OF_PASTED = 0.5  # largest, as a share of the crop's side
OFTEN = 50  # steps between two printed lines


class LandscapeSegmenter(nn.Module):
    """A U-Net (Ronneberger et al. 2015) that brings images to a shorter side of 128 pixels before it looks at them.

    Args:
        labels: N.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        body: nn.Module = _convolutions(CHANNELS[-1], CHANNELS[-1])
        for outer, inner in reversed(list(pairwise(CHANNELS))):
            body = _Level(outer, inner, body)
        self.stem = _convolutions(3, CHANNELS[0], stride=2)
        self.body = body
        self.head = nn.Conv2d(CHANNELS[0], labels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, N, H, W) scores."""
        height, width = images.shape[2], images.shape[3]
        shorter = min(height, width)
        # in steps of 16 pixels, which the five sizes of the network divide
        size = [16 * int(8 * height / shorter + 0.5), 16 * int(8 * width / shorter + 0.5)]
        looked_at = F.interpolate(images.float() / 127.5 - 1, size, mode="bilinear", antialias=True)
        scores = self.head(self.body(self.stem(looked_at)))
        return F.interpolate(scores, [height, width], mode="bilinear")


class _Level(nn.Module):
    """Convolutions before and after a network of ``inner`` channels that works at half the size."""

    def __init__(self, outer: int, inner: int, inside: nn.Module) -> None:
        super().__init__()
        self.before = _convolutions(outer, outer)
        self.halve = nn.Conv2d(outer, inner, 2, stride=2)
        self.inside = inside
        self.after = _convolutions(outer + inner, outer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outer, h, w) to the same."""
        x = self.before(x)
        deep = F.interpolate(self.inside(self.halve(x)), scale_factor=2.0)
        merged: Tensor = self.after(torch.cat((x, deep), dim=1))
        return merged


def _convolutions(given: int, made: int, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(2):
        channels, step = (given, stride) if number == 0 else (made, 1)
        layers += [nn.Conv2d(channels, made, 3, step, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers)


def train(shards: Path, steps: int, seed: int, share_pasted: float, say: Callable[[str], None]) -> LandscapeSegmenter:
    """A segmenter of the landscapes in shards, on the CPU, in evaluation mode.

    Args:
        share_pasted: of the crops, those that hold a part of another one.

    Raises:
        ValueError: the shards have no maps.
        FileNotFoundError: there are no shards.
    """
    crop = CropConfig(size=CROP, scale=(2 / 3, float("inf")))
    data = Stream(DataConfig((str(shards),), crop=crop), FIELDS, global_batch=BATCH, micro_batch=BATCH, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LandscapeSegmenter(len(LABELS)).train()
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_RATE, weight_decay=0.01)
    schedule = OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for step, (batch,) in zip(range(1, steps + 1), data.train_batches(), strict=False):
        seen = pasted(*_images_and_labels(batch), share_pasted, step)
        loss = F.cross_entropy(network(_half_worse(seen.images, step)), seen.labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % OFTEN == 0 or step == steps:
            say(f"step {step} of {steps}: cross-entropy {loss.item():.3f}")
    return network.eval()


def _images_and_labels(batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 and (B, H, W) int64."""
    return torch.as_tensor(batch["image"]), torch.as_tensor(batch["segmentation"]).long()


class Composed(NamedTuple):
    """Images into which parts of others are pasted."""

    images: Tensor  # (B, 3, S, S) uint8
    labels: Tensor  # (B, S, S) int64
    pasted: Tensor  # (B, S, S) bool


def pasted(images: Tensor, labels: Tensor, share: float, step: int) -> Composed:
    """A share of the images (B, 3, S, S), with labels (B, S, S), get all that has one label in the next one, moved.

    The step decides which images, which label, and how far it is moved.
    """
    generator = torch.Generator().manual_seed(step)
    made = Composed(images.clone(), labels.clone(), torch.zeros_like(labels, dtype=torch.bool))
    for number in range(len(images)):
        if torch.rand((), generator=generator) >= share:
            continue
        source = (number + 1) % len(images)
        there = torch.unique(labels[source])
        label = there[torch.randint(len(there), (), generator=generator)]
        furthest = int(SHIFT_OF_PASTED * labels.shape[-1])
        down, right = torch.randint(-furthest, furthest + 1, (2,), generator=generator).tolist()
        rows, columns = (torch.arange(side) - by for side, by in zip(labels.shape[1:], (down, right), strict=True))
        inside = ((rows >= 0) & (rows < len(rows)))[:, None] & (columns >= 0) & (columns < len(columns))
        above, beside = rows[:, None] % len(rows), columns % len(columns)
        part = inside & (labels[source, above, beside] == label)
        made.images[number] = torch.where(part, images[source][:, above, beside], images[number])
        made.labels[number] = torch.where(part, label, labels[number])
        made.pasted[number] = part
    return made


def _half_worse(images: Tensor, step: int) -> Tensor:
    """Every second image of (B, 3, S, S) uint8 without its finest detail, and with colors that are a little wrong.

    The step decides how coarse they are, and by how much brightness and colors differ, in each image and between its
    pixels.
    """
    generator = torch.Generator().manual_seed(step)
    side = images.shape[-1] // int(torch.randint(2, COARSEST + 1, (), generator=generator))
    small = F.interpolate(images[::2].float(), [side, side], mode="area")
    gain, shift = (torch.randn(len(small), 3, 1, 1, generator=generator) for _ in range(2))
    small = small * (1 + GAIN * gain) + SHIFT * shift + NOISE * torch.randn(small.shape, generator=generator)
    mixed = images.clone()
    mixed[::2] = F.interpolate(small, images.shape[2:], mode="bicubic").clamp(0, 255).byte()
    return mixed


def counted(segmenter: Segmenter, shards: Path) -> Tensor:
    """(N, N) how often each true label was found as each in whole images of shards, see ``confusion``."""
    data = Stream(DataConfig((str(shards),), crop=None), FIELDS, global_batch=1, micro_batch=1)
    pairs = (_images_and_labels(batch) for batch in data.eval_batches(1))
    return torch.stack([confusion(real, segmenter.find(images), segmenter.labels) for images, real in pairs]).sum(0)


def counted_pasted(segmenter: Segmenter, shards: Path) -> Tensor:
    """The same of parts of the images alone, which were pasted into others of them."""
    crop = CropConfig(size=CROP, scale=(1.0, float("inf")))
    data = Stream(DataConfig((str(shards),), crop=crop), FIELDS, global_batch=BATCH, micro_batch=BATCH)
    counts = torch.zeros(segmenter.labels, segmenter.labels, dtype=torch.int64)
    for step, batch in enumerate(data.eval_batches(BATCH)):
        seen = pasted(*_images_and_labels(batch), 1.0, step)
        counts += confusion(seen.labels[seen.pasted], segmenter.find(seen.images)[seen.pasted], segmenter.labels)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _train_and_measure(asked))


def _train_and_measure(asked: argparse.Namespace) -> int:
    network = train(asked.shards / "train", asked.steps, asked.seed, asked.pasted, command.note)
    with whole_file(asked.out) as file:
        torch.jit.save(torch.jit.script(network), file)
    segmenter, val = load_segmenter(asked.out, CROP), asked.shards / "val"
    counts = counted(segmenter, val)
    command.say(
        f"{asked.out}: of the pixels of images that it has not seen {pixel_accuracy(counts):.1%} are named as in "
        f"their maps, mean IoU {mean_iou(counts):.3f}; of parts of them that were pasted into others "
        f"{pixel_accuracy(counted_pasted(segmenter, val)):.1%}"
    )
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "demo.segmenter", __doc__, "python -m smalti.launch.demo.segmenter runs/edit/shards runs/edit/segmenter.pt"
    )
    parser.add_argument("shards", type=Path, help="folder of train/ and val/ with landscapes and maps, as pack leaves")
    parser.add_argument("out", type=Path, help="the TorchScript file")
    parser.add_argument("--steps", type=command.count, default=250, metavar="N", help="of 16 crops (250)")
    parser.add_argument(
        "--pasted", type=command.share, default=0.0, metavar="SHARE", help="of the crops, with a part of another (0)"
    )
    parser.add_argument("--seed", type=command.natural, default=0, metavar="N", help="of the weights and crops (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
