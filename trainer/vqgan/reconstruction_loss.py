"""What a reconstruction is judged by, and the gradient that this leaves at the image."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.bounds import Weight, check_ranges
from ...models.losses import reconstruction
from ..distributed import ranks
from ..distributed.compilation import uncompiled
from ..training.color_maps import three_channels
from .adversarial import AdversarialConfig
from .frozen_losses import LogitConfig, PerceptualConfig, load_logit_loss, load_lpips


@dataclass(frozen=True)
class VQGANLossConfig:
    """What a reconstruction is judged by. A model of label maps has ``labels`` alone."""

    pixel_loss: reconstruction.PixelLoss = "l1"
    pixel_weight: Weight = 1.0
    segmentation_loss: reconstruction.SegmentationLoss = (
        "cross_entropy"  # in the place of pixels where the model rebuilds label maps
    )
    perceptual: PerceptualConfig | None = field(default_factory=PerceptualConfig)
    classifier_logits: LogitConfig | None = None  # of a frozen classifier
    adversarial: AdversarialConfig | None = field(default_factory=AdversarialConfig)

    def __post_init__(self) -> None:
        check_ranges(self)


class LossGradient(NamedTuple):
    """What the losses at the image say, and their gradient there."""

    gradient: Tensor  # (B, D, H, W)
    scalars: dict[str, Tensor]


class ReconstructionLoss:
    """All losses of a reconstruction but the adversarial one, whose networks are frozen and outside every engine.

    Args:
        maps: whether label maps are rebuilt.
    """

    def __init__(self, config: VQGANLossConfig, maps: bool) -> None:
        self.config = config
        self.maps = maps
        self.lpips = None if config.perceptual is None else load_lpips(config.perceptual).to(ranks.device())
        self.logits = (
            None if config.classifier_logits is None else load_logit_loss(config.classifier_logits).to(ranks.device())
        )

    def uncompiled(self) -> AbstractContextManager[None]:
        """Within it LPIPS runs without a compiler, for batches of other shapes."""
        return nullcontext() if self.lpips is None else uncompiled(self.lpips)

    def __call__(self, real: Tensor, rebuilt: Tensor) -> LossGradient:
        """Of what a micro-batch should be and what was made of it, a leaf that requires a gradient.

        Args:
            real: (B, D, H, W) images in [-1, 1]; (B, H, W) labels of maps.
            rebuilt: (B, D, H, W) images; (B, N, H, W) logits of maps.
        """
        parts = self._parts(real, rebuilt)
        loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
        (gradient,) = torch.autograd.grad(loss, rebuilt)
        return LossGradient(gradient, {name: part.detach() for name, (_, part) in parts.items()})

    @torch.no_grad()
    def figures(self, real: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
        """Every loss by its name, (), as it is before its weight; ``nll_loss`` is their weighted sum.

        Args:
            real, rebuilt: as of a call.
        """
        parts = self._parts(real, rebuilt)
        total = torch.stack([weight * part for weight, part in parts.values()]).sum()
        return {name: part for name, (_, part) in parts.items()} | {"nll_loss": total}

    def _parts(self, real: Tensor, rebuilt: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Every loss by its name, with its weight."""
        config = self.config
        if self.maps:
            return {
                "rec_loss": (
                    config.pixel_weight,
                    reconstruction.segmentation_loss(config.segmentation_loss, real, rebuilt),
                )
            }
        parts = {"rec_loss": (config.pixel_weight, reconstruction.pixel_loss(config.pixel_loss, real, rebuilt))}
        real, rebuilt = three_channels(real), three_channels(rebuilt)
        if self.lpips is not None and config.perceptual is not None:
            parts["lpips_loss"] = (config.perceptual.weight, self.lpips(real, rebuilt).mean())
        if self.logits is not None and config.classifier_logits is not None:
            parts["logit_loss"] = (config.classifier_logits.weight, self.logits(real, rebuilt).mean())
        return parts
