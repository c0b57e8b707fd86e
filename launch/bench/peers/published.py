"""The published training step, attention and sampler in plain torch, to compare with."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from einops import rearrange
from torch import Tensor, nn

from ....models.losses import adversarial
from ....models.losses.lpips import LPIPS
from ....models.priors.gpt import GPT
from ....models.vqgan.autoencoder import VQGAN

Timed = Callable[[str], AbstractContextManager[None]]  # the name of a part of the step -> what times it


class PublishedLoop:
    """Trains two networks, with Adam of its own for each."""

    def __init__(self, generator: VQGAN, discriminator: nn.Module, lpips: LPIPS, weight: float, rate: float) -> None:
        self.generator, self.discriminator, self.lpips, self.weight = generator, discriminator, lpips, weight
        self.adams = [torch.optim.Adam(n.parameters(), rate, (0.5, 0.9)) for n in (generator, discriminator)]

    def step(self, real: Tensor, timed: Timed) -> None:
        """Both passes over a batch of (B, 3, H, W) images in [-1, 1]."""
        self.discriminator.requires_grad_(False)  # later versions of its trainer do so, which is cheaper than not
        with timed("generator forward"):
            out = self.generator(real)
        with timed("losses"):
            rec_loss = (out.reconstruction - real).abs().mean() + self.lpips(real, out.reconstruction).mean()
            g_loss = adversarial.generator_loss("hinge", self.discriminator(out.reconstruction))
        with timed("adaptive weight"):
            last = self.generator.last_layer.weight
            both = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rec_loss, g_loss)]
            adaptive = adversarial.adaptive_weight(both[0], both[1]).clamp(max=1e4)
        with timed("generator backward"):
            torch.autograd.backward(rec_loss + self.weight * adaptive * g_loss + out.quantized.loss)
        with timed("optimizers"):
            self._adam(0)
        self.discriminator.requires_grad_(True)
        with timed("generator forward, again"):
            fake = self.generator(real).reconstruction
        with timed("LPIPS, again"):
            self.lpips(real, fake)
        with timed("discriminator"):
            logits = self.discriminator(real), self.discriminator(fake.detach())
            torch.autograd.backward(adversarial.discriminator_loss("hinge", *logits))
        with timed("optimizers"):
            self._adam(1)

    def _adam(self, number: int) -> None:
        self.adams[number].step()
        self.adams[number].zero_grad(set_to_none=True)


def published_logits(prior: GPT, condition_codes: Tensor, codes: Tensor, hidden: Tensor) -> Tensor:
    """(B, T, K) logits of a ``gpt2`` prior, given the condition's tokens and the codes before the last.

    Args:
        hidden: (1, 1, T or more, T or more) true where a position may not look.
    """
    x = torch.cat((prior.condition.get_parameter("table.weight")[condition_codes], prior.tok_emb(codes)), dim=1)
    x = prior.drop(x + prior.pos_emb[:, : x.shape[1]])
    for block in _blocks(prior):
        attention = block.get_submodule("attn")
        normed = block.get_submodule("ln1")(x)
        query, key, value = (
            rearrange(attention.get_submodule(name)(normed), "b t (heads d) -> b heads t d", heads=prior.config.heads)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(key.shape[-1]))
        weights = scores.masked_fill(hidden[:, :, : x.shape[1], : x.shape[1]], float("-inf")).softmax(dim=-1)
        mixed = rearrange(weights @ value, "b heads t d -> b t (heads d)")
        x = x + attention.get_submodule("proj")(mixed)
        x = x + block.get_submodule("mlp")(block.get_submodule("ln2")(x))
    logits: Tensor = prior.head(prior.ln_f(x))
    return logits


def _blocks(prior: GPT) -> Iterator[nn.Module]:
    yield from prior.blocks
