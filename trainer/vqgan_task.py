"""One optimizer step of the adversarial game, with the graph cut at the picture.

The generator runs forward once. Its picture, detached, is a leaf at which the reconstruction and adversarial losses
leave their gradients; what these weigh at the decoder's last layer gives equation 7 of Esser et al. 2021; one backward
carries the joined gradient on. The fake's logits that pushed the generator also teach the discriminator. No gradient is
ever taken through an engine with ``autograd.grad``, which is why this is right under every ZeRO stage.

Shapes: B pictures of a rank's micro-batch, H rows and W columns, C channels of a code, K codes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ..models import losses
from ..models.discriminators import synchronise
from ..models.perceptual import LPIPS
from ..models.quantizers import Observed, Quantizer, perplexity, usage
from ..models.quantizers.base import Codebook
from ..models.vqgan import Reconstruction
from . import engine as engines
from . import ranks
from .config import to_mapping
from .ema import WeightAverage
from .evaluation import Sums, in_step, psnr
from .keys import mix
from .metrics import grid
from .perceptual_weights import PerceptualConfig, load_lpips
from .stream import Batch
from .training import reseed

if TYPE_CHECKING:
    from .runs import VQGANRun

CANDIDATES = 2048  # features of a step, over all ranks, among which codes are placed
PREVIEWS = 8  # pictures of a preview


@dataclass(frozen=True)
class AdversarialConfig:
    """The game: who learns from when on, and how hard the discriminator pulls. Starts and lengths in steps."""

    kind: losses.AdversarialLoss = "hinge"
    weight: float = 0.8
    adaptive: bool = True  # times equation 7
    epsilon: float = 1e-4
    clamp: float = 1e4
    start: int = 0  # the discriminator learns from here on
    warmup: int = 0  # it learns alone before the generator feels it
    ramp: int = 0  # the generator's weight then rises from 0

    def __post_init__(self) -> None:
        if min(self.start, self.warmup, self.ramp, self.weight) < 0:
            raise ValueError(
                f"start, warmup, ramp and weight must not be negative, "
                f"got {self.start}, {self.warmup}, {self.ramp}, {self.weight}"
            )

    def factor(self, step: int) -> float:
        """The weight of the adversarial loss for the generator at a step, before equation 7."""
        past = step - self.start - self.warmup
        return 0.0 if past < 0 else self.weight * min(1.0, (past + 1) / (self.ramp + 1))


@dataclass(frozen=True)
class VQGANLossConfig:
    """What a reconstruction is judged by."""

    pixel: losses.PixelLoss = "l1"
    pixel_weight: float = 1.0
    perceptual: PerceptualConfig | None = field(default_factory=PerceptualConfig)
    adversarial: AdversarialConfig | None = field(default_factory=AdversarialConfig)


class Judgement(NamedTuple):
    """What one loss at the picture says, and its gradient there."""

    gradient: Tensor  # (B, 3, H, W)
    scalars: dict[str, Tensor]


class MicroStep(NamedTuple):
    """What a micro-batch leaves for the end of its step."""

    latents: Tensor  # (B, C, h, w), detached
    indices: Tensor  # (B, h, w)
    scalars: dict[str, Tensor]


class VQGANTask:
    """Trains a VQGAN and its discriminator, an engine each. Every rank makes one and calls the same methods."""

    def __init__(self, run: "VQGANRun", accumulation: int) -> None:
        self.run = run
        sizes = {"micro_batch": run.batch.micro, "accumulation": accumulation}
        generator, training = run.model.build(), run.generator_training
        synchronise(generator, ranks.total)
        self.generator = engines.build(generator.to(ranks.device()), training.engine, training.optimizer, **sizes)
        self.engines: dict[str, Any] = {"generator": self.generator}
        self.average = WeightAverage(self.generator.module, run.average, engines.local)
        self.game = run.loss.adversarial
        if self.game is not None:
            discriminator, training = run.discriminator.build(run.model.out_channels), run.discriminator_training
            synchronise(discriminator, ranks.total)
            self.engines["discriminator"] = engines.build(
                discriminator.to(ranks.device()), training.engine, training.optimizer, **sizes
            )
        self.lpips: LPIPS | None = None
        if run.loss.perceptual is not None:
            self.lpips = load_lpips(run.loss.perceptual).to(ranks.device())

    @property
    def quantizer(self) -> Quantizer:
        """The generator's quantizer."""
        quantizer: Quantizer = self.generator.module.quantize
        return quantizer

    def step(self, micro_batches: list[Batch], step: int) -> Mapping[str, Tensor]:
        """One optimizer step of the generator and, from its start on, of the discriminator."""
        reseed(self.run.seed, step)
        self._set_schedules(step)
        reals = [pictures(batch) for batch in micro_batches]
        if step == 0:
            self._place_codes(reals)
        passes = [self._micro_step(real, step) for real in reals]
        used = self._keep_codes(passes, step)
        self.average.update(step)
        means = {name: torch.stack([p.scalars[name] for p in passes]).mean() for name in passes[0].scalars}
        return means | used

    def _set_schedules(self, step: int) -> None:
        of_run = (step, self.run.loop.steps, self.run.batch.total)
        engines.set_rate(self.generator, self.run.generator_training.optimizer.rate(*of_run))
        if "discriminator" in self.engines:
            rate = self.run.discriminator_training.optimizer.rate(*of_run)
            engines.set_rate(self.engines["discriminator"], rate)
        self.quantizer.anneal(step)

    def _micro_step(self, real: Tensor, step: int) -> MicroStep:
        out: Reconstruction = self.generator(real)
        rebuilt = out.rebuilt.detach().float().requires_grad_()  # the cut
        gradient, scalars = self._reconstruction(real, rebuilt)
        if self.game is not None and step >= self.game.start:
            push, adversarial = self._adversarial(self.game, real, rebuilt, out.features, gradient, step)
            gradient = gradient + push
            scalars |= adversarial
        joined = (out.rebuilt * gradient.to(out.rebuilt.dtype)).sum() + out.quantized.loss
        self.generator.backward(joined)
        self.generator.step()
        scalars["codebook"] = out.quantized.loss.detach()
        return MicroStep(out.latents.detach(), out.quantized.indices, scalars)

    def _reconstruction(self, real: Tensor, rebuilt: Tensor) -> Judgement:
        """Pixels and LPIPS."""
        config = self.run.loss
        pixel = losses.pixel_loss(config.pixel, real, rebuilt)
        scalars = {"pixel": pixel.detach()}
        loss = config.pixel_weight * pixel
        if self.lpips is not None and config.perceptual is not None:
            lpips = self.lpips(real, rebuilt).mean()
            scalars["lpips"] = lpips.detach()
            loss = loss + config.perceptual.weight * lpips
        (gradient,) = torch.autograd.grad(loss, rebuilt)
        return Judgement(gradient, scalars)

    def _adversarial(
        self, game: AdversarialConfig, real: Tensor, rebuilt: Tensor, features: Tensor, pull: Tensor, step: int
    ) -> Judgement:
        """The discriminator's push on the generator, then its own step; both from one forward of the fake.

        Args:
            features: (B, channels, H, W) input of the generator's last layer.
            pull: (B, 3, H, W) gradient of the reconstruction loss.
        """
        engine = self.engines["discriminator"]
        fake_logits = engine.module(rebuilt)  # not engine(...): its hooks would reduce on the generator's gradient
        factor = game.factor(step)
        push, weight = torch.zeros_like(pull), torch.zeros((), device=pull.device)
        if factor > 0:
            loss = losses.generator_loss(game.kind, fake_logits)
            (push,) = torch.autograd.grad(loss, rebuilt, retain_graph=True)
            weight = self._equation_7(game, features, pull, push) if game.adaptive else torch.ones_like(weight)
        real_logits = engine.module(real)
        loss = losses.discriminator_loss(game.kind, real_logits, fake_logits)
        engine.backward(loss)
        engine.step()
        scalars = {
            "discriminator": loss.detach(),
            "logits_real": real_logits.detach().float().mean(),
            "logits_fake": fake_logits.detach().float().mean(),
            "adaptive_weight": weight,
            "adversarial_factor": factor * weight,
        }
        return Judgement(factor * weight * push, scalars)

    def _equation_7(self, game: AdversarialConfig, features: Tensor, pull: Tensor, push: Tensor) -> Tensor:
        """The adaptive weight of a micro-batch over all ranks, the same on each."""
        layer = self.generator.module.last_layer
        both = torch.stack([losses.last_layer_gradient(features, gradient, layer) for gradient in (pull, push)])
        ranks.average_(both)
        return losses.adaptive_weight(both[0], both[1], game.epsilon, game.clamp)

    def _place_codes(self, reals: list[Tensor]) -> None:
        """Before the first step: the codebook among the features of its pictures."""
        with torch.no_grad():
            latents = [self.generator.module(real).latents for real in reals]
        with engines.whole(self.quantizer.parameters()):
            book = self.quantizer.initialise(candidates(latents), mix(self.run.seed, 0))
        self._write_codes(book, None)

    def _keep_codes(self, passes: list[MicroStep], step: int) -> dict[str, Tensor]:
        """After a step: statistics over all ranks, averages of the codebook, revival of idle codes."""
        each = [self.quantizer.observe(p.latents, p.indices) for p in passes]
        counts = ranks.total_(torch.stack([observed.counts for observed in each]).sum(0))
        sums = ranks.total_(torch.stack([observed.sums for observed in each]).sum(0))
        latents = candidates([p.latents for p in passes])
        with engines.whole(self.quantizer.parameters()):
            before = [p.detach().clone() for p in self.quantizer.parameters()]
            book = self.quantizer.upkeep(Observed(counts, sums), latents, mix(self.run.seed, step + 1))
        self._write_codes(book, before[0] if before else None)
        return {"perplexity": perplexity(counts), "usage": usage(counts)}

    def _write_codes(self, book: Tensor | None, before: Tensor | None) -> None:
        """Write a trained codebook's new value where its optimizer keeps it."""
        if book is None:
            return
        changed = torch.ones(len(book), dtype=torch.bool, device=book.device)
        if before is not None:
            changed = (book != before).any(1)
        owner = next(module for module in self.quantizer.modules() if isinstance(module, Codebook))
        engines.rewrite(self.generator, owner.weight, book, changed.nonzero().flatten())

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Held-out PSNR in dB, mean absolute error, and the share of the codes in use, with the averaged weights."""
        sums, counts = Sums(), torch.zeros(self.quantizer.codes, device=ranks.device())
        module = self.generator.module.eval()
        with self.average.applied():
            for batch, counted in in_step(batches):
                real = pictures(batch)
                out: Reconstruction = module(real)
                if counted:
                    sums.add("psnr", psnr(real, out.rebuilt.float()))
                    sums.add("l1", (out.rebuilt.float().clamp(-1, 1) - real).abs())
                    counts += torch.bincount(out.quantized.indices.flatten(), minlength=len(counts))
        module.train()
        ranks.total_(counts)
        return sums.means() | {"usage": usage(counts).item(), "perplexity": perplexity(counts).item()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Held-out pictures above their reconstructions, with the averaged weights."""
        real = pictures(batch)[:PREVIEWS]
        module = self.generator.module.eval()
        with self.average.applied():
            rebuilt = module(real).rebuilt.float()
        module.train()
        return {"reconstructions": grid([real, rebuilt])}

    def state(self) -> dict[str, Any]:
        return {"average": self.average.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.average.load_state(state["average"])

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights of the generator, whole, in fp32, on the host."""
        with self.average.applied():
            return engines.whole_state(self.generator.module)

    def card(self) -> dict[str, Any]:
        """What the weights are."""
        model, perceptual = self.run.model, self.run.loss.perceptual
        return {
            "task": "vqgan",
            "model": to_mapping(model),
            "factor": model.factor,
            "codes": model.codes,
            "perceptual_trunk": None if perceptual is None else perceptual.trunk,
        }


def pictures(batch: Batch) -> Tensor:
    """The batch's pictures, (B, 3, H, W) float32 in [-1, 1] on this rank's device."""
    picture = batch["picture"]
    if not isinstance(picture, Tensor):
        raise TypeError(f"the batch's pictures must be a tensor, got {type(picture).__name__}")
    return picture.to(ranks.device(), non_blocking=True).float() / 127.5 - 1


def candidates(latents: list[Tensor]) -> Tensor:
    """Features of a step, over all ranks, evenly spread over it: (N, C) float32, the same on every rank.

    Their order is that of the samples in the step, so that the number of ranks does not change them.

    Args:
        latents: (B, C, h, w) of each of this rank's micro-batches.
    """
    mine = rearrange(torch.stack(latents).float(), "a b c h w -> a (b h w) c")
    every = -(-mine.shape[0] * mine.shape[1] * ranks.world() // CANDIDATES)
    mine = mine[:, ::every].contiguous()
    return rearrange(ranks.gathered(mine), "(r a) n c -> (a r n) c", a=mine.shape[0])
