"""Discriminator training and the adversarial gradient of the generator.

The fake's logits of the generator's loss also teach the discriminator, unless it is to see what the updated generator
makes, as in the published loop. No gradient is ever taken through an engine with ``autograd.grad``.

Shapes: B images of a rank's micro-batch, H rows and W columns, D channels.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...models.bounds import Natural, Positive, Weight, check_ranges
from ...models.losses import adversarial
from ...models.losses.lecam import LeCAMConfig
from ..distributed import ranks
from ..distributed.compilation import uncompiled
from ..distributed.engine_protocol import Engine

# Gradients of losses at the image, side by side in channels -> this rank's gradients at the decoder's last layer.
ToLastLayer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialConfig:
    """The adversarial loss: its weight, and from which steps on. Starts and lengths in steps."""

    kind: adversarial.AdversarialLoss = "hinge"
    disc_weight: Weight = 0.8
    adaptive: bool = True  # times equation 7
    eps: Positive = 1e-4
    max_adaptive_weight: Positive = 1e4
    disc_start: Natural = 0  # the discriminator learns from here on
    disc_only_steps: Natural = 0  # it learns alone before the generator feels it
    ramp_steps: Natural = 0  # the generator's weight then rises from 0
    discriminator_fakes: Literal["same_forward", "updated_generator"] = (
        "same_forward"  # the generator's update; after costs a second forward
    )
    lecam: LeCAMConfig | None = None
    r1_gamma: Weight = 0.0  # gamma of Mescheder et al. 2018; 10 is usual, 0 is none

    def __post_init__(self) -> None:
        if min(self.disc_start, self.disc_only_steps, self.ramp_steps, self.disc_weight) < 0:
            raise ValueError(
                f"disc_start, disc_only_steps, ramp_steps and disc_weight must not be negative, "
                f"got {self.disc_start}, {self.disc_only_steps}, {self.ramp_steps}, {self.disc_weight}"
            )
        if self.eps <= 0 or self.max_adaptive_weight <= 0:
            raise ValueError(
                f"eps and max_adaptive_weight must be positive, got {self.eps} and {self.max_adaptive_weight}"
            )
        if self.r1_gamma < 0:
            raise ValueError(f"r1_gamma must not be negative, got {self.r1_gamma}")
        check_ranges(self)

    def factor(self, step: int) -> float:
        """The weight of the adversarial loss for the generator at a step, before equation 7."""
        past = step - self.disc_start - self.disc_only_steps
        return 0.0 if past < 0 else self.disc_weight * min(1.0, (past + 1) / (self.ramp_steps + 1))


class AdversarialGradient(NamedTuple):
    """What the discriminator does to one micro-batch of the generator."""

    gradient: Tensor  # (B, D, H, W), weighted, to be added to the reconstruction's
    scalars: dict[str, Tensor]


class DiscriminatorTrainer:
    """The discriminator in its engine. Every rank makes one and calls the same methods with its own images."""

    def __init__(self, config: AdversarialConfig, engine: Engine) -> None:
        self.config = config
        self.engine = engine
        self.lecam = None if config.lecam is None else config.lecam.build().to(ranks.device())
        self.frozen = False  # gives its gradient, but does not learn
        # A partitioned network gathers its weights for one backward of each forward, so the fake is judged anew.
        self._walks_once = config.discriminator_fakes == "updated_generator" or engine.zero_optimization_stage() == 3
        self.learnt = False  # in the current step
        self._logits: list[Tensor] = []  # (2,) means of real and fake of each micro-batch of the current step

    def adversarial_gradient(
        self,
        real: Tensor,
        reconstruction: Tensor,
        rec_grad: Tensor,
        to_last_layer: ToLastLayer,
        step: int,
        beside: Tensor | None = None,
    ) -> AdversarialGradient:
        """The generator's adversarial gradient; where the discriminator sees images before the update, it learns.

        Args:
            reconstruction: (B, D, H, W), a leaf that requires a gradient.
            rec_grad: (B, D, H, W) gradient of the reconstruction loss there.
            beside: (B, C, H, W) what is judged along with both, see ``JudgedBesideConfig``.
        """
        config = self.config
        factor = config.factor(step)
        adv_grad, weight = torch.zeros_like(rec_grad), torch.zeros((), device=rec_grad.device)
        scalars: dict[str, Tensor] = {}
        if factor == 0 and config.discriminator_fakes == "updated_generator":
            return AdversarialGradient(adv_grad, {})
        # Not engine(...): its hooks would reduce on the generator's gradient.
        fake_logits = self.engine.module(_seen(reconstruction, beside))
        if factor > 0:
            loss = adversarial.generator_loss(config.kind, fake_logits)
            (adv_grad,) = torch.autograd.grad(loss, reconstruction, retain_graph=not self._walks_once)
            scalars["g_loss"], weight = loss.detach(), torch.ones_like(weight)
            if config.adaptive:
                raw = self._adaptive_weight(rec_grad, adv_grad, to_last_layer)
                weight = raw.clamp(max=config.max_adaptive_weight)
                scalars |= {"adaptive_weight_raw": raw, "clamped": (raw >= config.max_adaptive_weight).float()}
        scalars |= {"adaptive_weight": weight, "g_weight": factor * weight}
        if config.discriminator_fakes == "same_forward":
            if factor > 0 and self._walks_once and not self.frozen:
                fake_logits = self.engine.module(_seen(reconstruction.detach(), beside))
            scalars |= self._learn(real, fake_logits, beside)
        return AdversarialGradient(factor * weight * adv_grad, scalars)

    def train_on_updated_fakes(self, judged: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> Mapping[str, Tensor]:
        """The discriminator's step on real images and what the updated generator makes of them, the means over all.

        Args:
            judged: (B, D, H, W) real and rebuilt images of each micro-batch of the step, and what lies beside them.
        """
        each = []
        for real, rebuilt, beside in judged:
            with torch.set_grad_enabled(not self.frozen):
                fake_logits = self.engine.module(_seen(rebuilt, beside))
            each.append(self._learn(real, fake_logits, beside))
        return {name: torch.stack([scalars[name] for scalars in each]).mean() for name in each[0]}

    @torch.no_grad()
    def judge(self, real: Tensor, rebuilt: Tensor, beside: Tensor | None = None) -> dict[str, Tensor]:
        """What the discriminator says of validation images, without learning. Every rank must call this alike.

        Args:
            real, rebuilt: (B, D, H, W).
            beside: (B, C, H, W) what is judged along with both.

        Returns:
            its loss, the mean logits of both, their gap and the share of right ones, each ().
        """
        module = self.engine.module.eval()
        with uncompiled(module):
            real_logits, fake_logits = (module(_seen(images, beside)).float() for images in (real, rebuilt))
        module.train()
        loss = adversarial.discriminator_loss(self.config.kind, real_logits, fake_logits)
        return {"d_loss": loss, **_logit_statistics(real_logits, fake_logits)}

    def end_step(self, applied: bool) -> None:
        """Closes an optimizer step, whose change of the discriminator was ``applied``, alike on all ranks."""
        self.learnt = False
        logits, self._logits = self._logits, []
        if self.lecam is not None and applied:
            real, fake = ranks.all_reduce_mean_(torch.stack(logits).mean(0))
            self.lecam.update(real, fake)

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": self.frozen, "lecam": None if self.lecam is None else self.lecam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.frozen = state["frozen"]
        if self.lecam is not None:
            self.lecam.load_state_dict(state["lecam"])

    def _adaptive_weight(self, rec_grad: Tensor, adv_grad: Tensor, to_last_layer: ToLastLayer) -> Tensor:
        """The adaptive weight of a micro-batch over all ranks before its clamp, the same on each."""
        both = ranks.all_reduce_mean_(
            to_last_layer(torch.cat([rec_grad, adv_grad], dim=1))
        )  # in one look at the features
        rec_at_layer, adv_at_layer = both.chunk(2)
        return adversarial.adaptive_weight(rec_at_layer, adv_at_layer, self.config.eps)

    def _learn(self, real: Tensor, fake_logits: Tensor, beside: Tensor | None) -> dict[str, Tensor]:
        """One backward of the discriminator, and its step at the end of the accumulation."""
        if self.frozen:
            with torch.no_grad():
                real_logits = self.engine.module(_seen(real, beside))
        else:  # its own call opens a micro-batch: without it ZeRO 3 would not accumulate
            real_logits = self.engine(_seen(real, beside))
        loss = adversarial.discriminator_loss(self.config.kind, real_logits, fake_logits)
        scalars = {"d_loss": loss.detach(), **_logit_statistics(real_logits, fake_logits)}
        if self.frozen:
            return scalars
        if self.lecam is not None:
            held = self.lecam(real_logits, fake_logits)
            loss, scalars["lecam"] = loss + held, held.detach()
        if self.config.r1_gamma > 0:
            steepness = adversarial.r1(lambda images: self.engine.module(_seen(images, beside)), real)
            loss, scalars["r1"] = loss + self.config.r1_gamma / 2 * steepness, steepness.detach()
        self.engine.backward(loss)
        self.engine.step()
        self._logits.append(torch.stack([scalars["logits_real"], scalars["logits_fake"]]))
        self.learnt = True
        return scalars


def _seen(images: Tensor, beside: Tensor | None) -> Tensor:
    """(B, D, H, W) images with what lies beside them in further channels."""
    return images if beside is None else torch.cat((images, beside.to(images.dtype)), dim=1)


@torch.no_grad()
def _logit_statistics(real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Mean logits, the gap between them, and the share of all logits on the right side of 0."""
    real, fake = real_logits.detach().float(), fake_logits.detach().float()
    accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
    means = {"logits_real": real.mean(), "logits_fake": fake.mean()}
    return means | {"logits_gap": means["logits_real"] - means["logits_fake"], "discriminator_accuracy": accuracy}
