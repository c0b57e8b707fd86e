"""Small adversarial games: their configs, their pictures, and the same game played by one plain-torch process.

The plain process knows no engine, no cut and no ranks: it sees the whole batch, runs one ordinary graph through both
networks, and takes equation 7 from ``autograd.grad`` at the decoder's last layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.trainer.config import from_mapping
from smalti.trainer.keys import mix
from smalti.trainer.runs import VQGANRun
from smalti.trainer.samples import Batch

STEPS = 3
TOTAL = 8  # pictures of a step
SIDE = 16
DATA = {"shards": ["nowhere"], "crop": {"size": SIDE}}
TINY = {
    "channels": 8, "norm_groups": 2, "multipliers": [1, 2], "residual_blocks": 1, "attention_resolutions": [],
    "middle_attention": True, "resolution": SIDE, "z_channels": 8, "embed_dim": 4,
}  # fmt: skip


def game(micro: int = 2, **settings: Any) -> VQGANRun:
    """A run without data. Settings are those that are popped below, and any key of the adversarial loss."""
    zeros = settings.pop("generator_zero", 1), settings.pop("discriminator_zero", 1)
    quantizer = {"kind": "vq"} | settings.pop("quantizer", {})
    quantizer = quantizer if quantizer["kind"] in ("fsq", "lfq") else {"codes": 16} | quantizer
    norm, clip, sentinels = settings.pop("norm", "group"), settings.pop("clip", 1.0), settings.pop("sentinels", {})
    extra = settings.pop("extra", {})
    # Adam divides by the size of a gradient; an epsilon of a thousandth keeps rounding from being divided by rounding.
    optimizer = {"learning_rate": 2e-3, "betas": [0.5, 0.9], "epsilon": 1e-3}
    generator, discriminator = ({"optimizer": optimizer, "engine": {"zero": zero, "clip": clip}} for zero in zeros)
    run: VQGANRun = from_mapping(VQGANRun, {
        "folder": "nowhere", "data": DATA, "held_out": DATA, "loop": {"steps": STEPS},
        "batch": {"total": TOTAL, "micro": micro}, "model": TINY | {"quantizer": quantizer},
        "discriminator": {"kind": "patchgan", "channels": 16, "layers": 1, "norm": norm},
        "loss": {"perceptual": None, "adversarial": settings},
        "generator_training": generator, "discriminator_training": discriminator, "sentinels": sentinels,
    } | extra)  # fmt: skip
    return run


def pictures(step: int, count: int = TOTAL) -> Tensor:
    """The uint8 pictures of a step, smooth enough to be learnt."""
    generator = torch.Generator().manual_seed(step % 2)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    return F.interpolate(coarse, size=SIDE, mode="bilinear").byte()


def micro_batches(step: int, micro: int, rank: int, world: int) -> list[Batch]:
    """A rank's share of a step's pictures, in the order in which a stream deals them."""
    parts = pictures(step).split(micro)[rank::world]
    return [{"picture": part, "key": [f"s{step}-r{rank}-m{m}-{n}" for n in range(len(part))]}
            for m, part in enumerate(parts)]  # fmt: skip


class Plain:
    """The game in one process of plain torch.

    Args:
        parts: in how many parts a step's pictures are gone through: equation 7 and batch statistics are of a part.
    """

    def __init__(self, run: VQGANRun, parts: int) -> None:
        torch.manual_seed(run.seed)
        self.run, self.parts = run, parts
        self.config = run.loss.adversarial
        self.generator, self.discriminator = run.model.build(), run.discriminator.build(3)
        networks = (self.generator, self.discriminator)
        self.adams = [torch.optim.Adam(network.parameters(), 2e-3, (0.5, 0.9), 1e-3) for network in networks]
        self.anchors = torch.zeros(2)  # LeCAM's, of real and fake
        self.ema: dict[str, Tensor] = {}
        self.weights: list[float] = []  # adaptive weights, of every part

    def play(self, steps: int) -> None:
        for step in range(steps):
            reals = [part.float() / 127.5 - 1 for part in pictures(step).chunk(self.parts)]
            if step == 0:
                self._place(torch.cat(reals))
            latents, indices, logits = [], [], []
            for real in reals:
                out = self.generator(real)
                latents.append(out.latents.detach())
                indices.append(out.quantized.indices)
                self._generator_backward(real, out, step)
                if self.config.discriminator_sees == "before":
                    logits.append(self._discriminator_backward(real, out.rebuilt.detach()))
            self._adam(0)
            if self.config.discriminator_sees == "after":
                logits = [self._discriminator_backward(real, self.generator(real).rebuilt.detach()) for real in reals]
            self._adam(1)
            if self.config.lecam is not None:
                self.anchors.lerp_(torch.stack(logits).mean(0), 1 - self.config.lecam.decay)
            self._move_averages(torch.cat(latents), torch.cat(indices))

    def _place(self, real: Tensor) -> None:
        rows = self.generator.latents(real).detach().permute(0, 2, 3, 1).flatten(0, 2)
        book = self.generator.quantize.initialise(rows, mix(self.run.seed, 0))
        if book is not None:
            self.generator.quantize.embedding.weight.data.copy_(book)

    def _generator_backward(self, real: Tensor, out: Any, step: int) -> None:
        pull, push = (out.rebuilt - real).abs().mean(), -self.discriminator(out.rebuilt).mean()
        last = self.generator.decoder.conv_out.weight
        one, other = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (pull, push))
        weight = (one / (other + self.config.epsilon)).clamp(max=self.config.clamp) if self.config.adaptive else 1.0
        self.weights.append(float(weight))
        loss = pull + self.config.factor(step) * weight * push + out.quantized.loss
        accumulate(loss / self.parts, self.generator)

    def _discriminator_backward(self, real: Tensor, fake: Tensor) -> Tensor:
        real = real.clone().requires_grad_()
        of_fake, of_real = self.discriminator(fake), self.discriminator(real)
        loss = (F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()) / 2
        if self.config.lecam is not None:
            gaps = F.relu(of_real - self.anchors[1]) ** 2, F.relu(self.anchors[0] - of_fake) ** 2
            loss = loss + self.config.lecam.weight * (gaps[0].mean() + gaps[1].mean())
        if self.config.r1:
            (slope,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
            loss = loss + self.config.r1 / 2 * slope.flatten(1).square().sum(1).mean()
        accumulate(loss / self.parts, self.discriminator)
        return torch.stack([of_real.mean(), of_fake.mean()]).detach()

    def _adam(self, number: int) -> None:
        network = (self.generator, self.discriminator)[number]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.adams[number].step()
        self.adams[number].zero_grad()

    def _move_averages(self, latents: Tensor, indices: Tensor) -> None:
        """Of an EMA codebook, by hand in float64: decayed counts and sums, their quotient smoothed."""
        config = self.run.model.quantizer
        if config.kind != "ema":
            return
        if not self.ema:
            book = self.generator.quantize.embedding.weight.double().clone()
            self.ema = {"weight": book, "cluster_size": torch.ones(config.codes).double(), "embed_avg": book.clone()}
        chosen = F.one_hot(indices.flatten(), config.codes).double()
        rows = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
        counts = config.decay * self.ema["cluster_size"] + (1 - config.decay) * chosen.sum(0)
        sums = config.decay * self.ema["embed_avg"] + (1 - config.decay) * chosen.t() @ rows
        smooth = (counts + config.epsilon) / (counts.sum() + config.codes * config.epsilon) * counts.sum()
        self.ema = {"weight": sums / smooth[:, None], "cluster_size": counts, "embed_avg": sums}
        self.generator.quantize.embedding.weight.copy_(self.ema["weight"])


def accumulate(loss: Tensor, network: nn.Module) -> None:
    """Add a loss's gradient to one network's alone."""
    trained = list(network.parameters())
    for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained, retain_graph=True), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


