"""The step of stage 1 as it was published, in plain torch: what ``bench stage1`` compares the project's step with.

Two passes over each batch, one an optimizer, as in taming-transformers: the generator runs forward in both, LPIPS is
computed in both, and the gradients at the last layer are taken before the ordinary backward takes them again.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ..models import losses
from ..models.perceptual import LPIPS
from ..models.vqgan import VQGAN

Timed = Callable[[str], AbstractContextManager[None]]  # the name of a part of the step -> what times it


class PublishedLoop:
    """Trains two networks, with Adam of its own for each."""

    def __init__(self, generator: VQGAN, discriminator: nn.Module, lpips: LPIPS, weight: float, rate: float) -> None:
        self.generator, self.discriminator, self.lpips, self.weight = generator, discriminator, lpips, weight
        self.adams = [torch.optim.Adam(n.parameters(), rate, (0.5, 0.9)) for n in (generator, discriminator)]

    def step(self, real: Tensor, timed: Timed) -> None:
        """Both passes over a batch of (B, 3, H, W) pictures in [-1, 1]."""
        self.discriminator.requires_grad_(False)  # later versions of its trainer do so, which is cheaper than not
        with timed("generator forward"):
            out = self.generator(real)
        with timed("losses"):
            pull = (out.rebuilt - real).abs().mean() + self.lpips(real, out.rebuilt).mean()
            push = losses.generator_loss("hinge", self.discriminator(out.rebuilt))
        with timed("adaptive weight"):
            last = self.generator.last_layer.weight
            both = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (pull, push)]
            adaptive = losses.adaptive_weight(both[0], both[1])
        with timed("generator backward"):
            torch.autograd.backward(pull + self.weight * adaptive * push + out.quantized.loss)
        with timed("optimizers"):
            self._adam(0)
        self.discriminator.requires_grad_(True)
        with timed("generator forward, again"):
            fake = self.generator(real).rebuilt
        with timed("LPIPS, again"):
            self.lpips(real, fake)
        with timed("discriminator"):
            logits = self.discriminator(real), self.discriminator(fake.detach())
            torch.autograd.backward(losses.discriminator_loss("hinge", *logits))
        with timed("optimizers"):
            self._adam(1)

    def _adam(self, number: int) -> None:
        self.adams[number].step()
        self.adams[number].zero_grad(set_to_none=True)
