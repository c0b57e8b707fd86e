"""The loss whose backward carries every gradient of the generator, with the graph cut at the image.

One function for training and for the cost model, so that what is planned is what is done.
"""

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from ...models.losses.adversarial import last_layer_gradient
from ...models.vqgan.autoencoder import Reconstruction
from .adversarial import DiscriminatorTrainer
from .reconstruction_loss import ReconstructionLoss


class GeneratorLoss(NamedTuple):
    """What a micro-batch gives the generator."""

    joined: Tensor  # (), of no meaning in itself: its gradient is that of all losses
    finite: Tensor  # (B,) whether a sample's reconstruction and its gradient are finite
    scalars: dict[str, Tensor]


def generator_loss(
    real: Tensor,
    out: Reconstruction,
    reconstruction_loss: ReconstructionLoss,
    trainer: DiscriminatorTrainer | None,
    last_layer: nn.Conv2d,
    step: int,
    beside: Tensor | None = None,
) -> GeneratorLoss:
    """The reconstruction and adversarial losses at the image, detached, and what they leave there, joined.

    Args:
        real: (B, D, H, W) images or (B, H, W) labels of maps.
        out: what the generator made of them, with its graph.
        trainer: of the discriminator, where the adversarial loss has begun; it may learn here.
        last_layer: of the decoder, for equation 7 of Esser et al. 2021.
        beside: (B, C, H, W) what the discriminator sees beside the images, if anything.
    """
    leaf = out.reconstruction.detach().float().requires_grad_()
    cut = leaf.view_as(leaf)  # a counter of operations cannot bear a gradient that is asked for at a leaf
    gradient, scalars = reconstruction_loss(real, cut)
    finite = (cut.detach().isfinite() & gradient.isfinite()).flatten(1).all(1)
    if trainer is not None:
        at_last_layer = partial(_at_last_layer, out.features, last_layer)
        adversarial = trainer.adversarial_gradient(real, cut, gradient, at_last_layer, step, beside)
        gradient = gradient + adversarial.gradient
        scalars |= adversarial.scalars
    joined = (out.reconstruction * gradient.to(out.reconstruction.dtype)).sum() + out.quantized.loss
    return GeneratorLoss(joined, finite, scalars | {"quantizer_loss": out.quantized.loss.detach()})


def _at_last_layer(features: Tensor, layer: nn.Conv2d, gradient: Tensor) -> Tensor:
    """This rank's gradient at the decoder's last layer, from that at the image."""
    return last_layer_gradient(features, gradient, layer)
