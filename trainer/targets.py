"""What an autoencoder is fed and rebuilds: pictures, depths or label maps.

Shapes: B samples, D channels, H rows, W columns, N labels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ranks
from .evaluation import Sums, psnr
from .keys import splitmix64
from .reconstruction import three_channels
from .stream import Batch

Field = Literal["picture", "depth", "map"]


def target(batch: Batch, field: Field) -> Tensor:
    """The batch's field on this rank's device, as the network takes it.

    Returns:
        (B, 3, H, W) float32 in [-1, 1] of pictures, (B, 1, H, W) of depths, (B, H, W) int64 of maps.
    """
    values = batch[field]
    if not isinstance(values, Tensor):
        raise TypeError(f"the batch's {field} must be a tensor, got {type(values).__name__}")
    values = values.to(ranks.device(), non_blocking=True)
    if field == "map":
        return values.long()
    return values.float() / 127.5 - 1 if field == "picture" else values[:, None].float() * 2 - 1


def add_figures(sums: Sums, field: Field, real: Tensor, rebuilt: Tensor) -> None:
    """Held-out figures of a batch: PSNR in dB and mean absolute error; of maps, accuracy and nats a place."""
    if field == "map":
        known = real < rebuilt.shape[1]
        nats = F.cross_entropy(rebuilt, torch.where(known, real, -100), reduction="none")
        sums.add("cross_entropy", nats[known])
        sums.add("accuracy", (rebuilt.argmax(1) == real)[known].float())
        return
    sums.add("psnr", psnr(real, rebuilt))
    sums.add("l1", (rebuilt.clamp(-1, 1) - real).abs())


def shown(field: Field, real: Tensor, rebuilt: Tensor) -> list[Tensor]:
    """Two rows of colour pictures, (B, 3, H, W) in [-1, 1]: what was to be rebuilt, above what came of it."""
    if field == "map":
        return [coloured(real), coloured(rebuilt.argmax(1))]
    return [three_channels(real), three_channels(rebuilt)]


def coloured(maps: Tensor) -> Tensor:
    """(B, H, W) labels below 256 as pictures (B, 3, H, W) in [-1, 1], a colour for each, the same in every run."""
    bits = torch.tensor([splitmix64(label) & 0xFFFFFF for label in range(256)], device=maps.device)
    palette = torch.stack([bits >> 16, bits >> 8 & 0xFF, bits & 0xFF], dim=1) / 127.5 - 1  # (256, 3)
    return palette[maps].movedim(-1, 1)
