"""One optimizer step of stage 1, with the graph cut at the image.

The generator runs forward once. Its image, detached, is a leaf at which the reconstruction and adversarial losses
leave their gradients; what these weigh at the decoder's last layer gives equation 7 of Esser et al. 2021; one backward
carries the joined gradient on. No gradient is ever taken through an engine with ``autograd.grad``, which is why this is
right under every ZeRO stage.

Shapes: B samples of a rank's micro-batch, H rows and W columns, D channels of an image (labels of a map), C of a code.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.discriminators import set_cross_rank_reduce
from ...models.pixel_range import to_levels
from ...models.quantizers import Quantizer, perplexity, usage
from ...models.quantizers.base import count
from ...models.vqgan.autoencoder import VQGAN, Reconstruction
from ..checkpoint.discriminator_files import load_initial_discriminator
from ..checkpoint.initial_weights import load_initial_weights
from ..config import to_mapping
from ..data.collate import Batch
from ..data.inputs import sample_seeds, target
from ..data.masks import draw_masks
from ..distributed import engine as engines
from ..distributed import ranks, sharded_parameters
from ..distributed.compilation import compile_blocks, uncompiled
from ..distributed.engine import NetworkConfig
from ..distributed.engine_protocol import ShardedEngine
from ..distributed.owned_weights import owned
from ..frozen_networks.feature_networks import load_features
from ..frozen_networks.image_sets import ComparedSets
from ..training.arrays import CODE_USE
from ..training.color_maps import three_channels
from ..training.ema import EMA
from ..training.evaluation import MetricSums, equal_length_batches
from ..training.loop import reseed
from ..training.metrics import grid
from .adversarial import DiscriminatorTrainer
from .codebook import CodebookUpdater, EncodedBatch
from .config import VQGANRun
from .figures import add_figures, side_by_side
from .generator_gradient import generator_loss
from .monitors import TrainingMonitors
from .reconstruction_loss import ReconstructionLoss

PREVIEWS = 8  # samples of a preview


class MicroStep(NamedTuple):
    """What a micro-batch leaves for the end of its step."""

    coded: EncodedBatch
    finite: Tensor  # (B,) whether a sample's reconstruction and its gradient are finite
    scalars: dict[str, Tensor]


class VQGANTask:
    """Trains a VQGAN and, in the adversarial game, its discriminator, an engine each.

    Every rank makes one and calls the same methods.

    Args:
        accumulation: micro-batches of one optimizer step.
    """

    def __init__(self, run: VQGANRun, accumulation: int) -> None:
        self.run = run
        self._sizes = {"micro_batch": run.batch.micro_batch_size, "accumulation": accumulation}
        network = run.model.build()
        load_initial_weights(network, run.initial_weights, Path(run.run_dir), "vqgan")
        self.generator = self._engine(network, run.generator_training)
        self.engines: dict[str, ShardedEngine] = {"generator": self.generator}
        self.ema = EMA(owned(self.generator), run.ema_decay)
        self.discriminator_trainer: DiscriminatorTrainer | None = None
        if run.loss.adversarial is not None and run.discriminator_training is not None:
            discriminator = run.discriminator.build(run.judged_channels)
            load_initial_discriminator(discriminator, run.initial_weights, Path(run.run_dir))
            self.engines["discriminator"] = self._engine(discriminator, run.discriminator_training)
            self.discriminator_trainer = DiscriminatorTrainer(run.loss.adversarial, self.engines["discriminator"])
        self.reconstruction_loss = ReconstructionLoss(run.loss, maps=run.target == "segmentation")
        if run.channels_last and self.reconstruction_loss.lpips is not None:
            # Else its weights are copied so at every call.
            self.reconstruction_loss.lpips.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compiler = run.generator_training.engine.compile_backend
        if compiler is not None and self.reconstruction_loss.lpips is not None:
            compile_blocks(self.reconstruction_loss.lpips, compiler)
        crop, features = run.val_data.crop, run.val_features
        self.features = None if features is None or crop is None else load_features(features, crop.output[0])
        self.codebook = CodebookUpdater(self.generator, run.seed, run.monitors.usage_window)
        self.monitors = TrainingMonitors(run.monitors)

    def _engine(self, network: torch.nn.Module, training: NetworkConfig) -> ShardedEngine:
        set_cross_rank_reduce(network, ranks.all_reduce_sum)
        return engines.build(network.to(ranks.device()), training.engine, training.optimizer, **self._sizes)

    @property
    def model(self) -> VQGAN:
        """The network inside the generator's engine."""
        model: VQGAN = self.generator.module
        return model

    @property
    def quantizer(self) -> Quantizer:
        """The generator's quantizer."""
        return self.model.quantize

    def parts(self) -> dict[str, torch.nn.Module]:
        """The modules whose time a profile shows."""
        found: dict[str, torch.nn.Module | None] = {
            "encoder": self.model.encoder,
            "quantizer": self.quantizer,
            "decoder": self.model.decoder,
            "LPIPS": self.reconstruction_loss.lpips,
            "discriminator": None if self.discriminator_trainer is None else self.engines["discriminator"].module,
        }
        return {name: module for name, module in found.items() if module is not None}

    def step(self, micro_batches: list[Batch], step: int) -> Mapping[str, Tensor]:
        """One optimizer step of the generator and, from its start on, of the discriminator.

        Raises:
            DivergedError: too many steps in a row had numbers that are not finite.
        """
        reseed(self.run.seed, step)
        self._set_schedules(step)
        inputs = [self._inputs(batch, step) for batch in micro_batches]
        if step == 0 and self.quantizer.starts_from_features and self.run.initial_weights is None:
            with torch.no_grad(), uncompiled(self.model):
                self.codebook.init_from_features([self.model.latents(*each) for each in inputs])
        besides = [self._beside(batch) for batch in micro_batches]
        passes = [self._micro_step(*each, step) for each in zip(inputs, besides, strict=True)]
        scalars = {name: torch.stack([p.scalars[name] for p in passes]).mean() for name in passes[0].scalars}
        scalars |= self._train_on_updated_fakes(inputs, besides, step)
        return self._end_step(micro_batches, passes, scalars, step)

    def _inputs(self, batch: Batch, step: int | None) -> tuple[Tensor, ...]:
        """What the network gets: what is to be rebuilt, and the mask where it knows masks; None: of validation."""
        if self.run.masks is None:
            return (self._target(batch),)
        seeds = sample_seeds(batch, self.run.seed, *(() if step is None else (step,)))
        return self._target(batch), draw_masks(target(batch, "segmentation"), seeds, self.run.masks)

    def _beside(self, batch: Batch) -> Tensor | None:
        """What the discriminator sees beside the images."""
        return None if self.run.judged_beside is None else self.run.judged_beside.of(batch)

    def _target(self, batch: Batch) -> Tensor:
        values = target(batch, self.run.target)
        if self.run.channels_last and values.dim() == 4:
            return values.contiguous(memory_format=torch.channels_last)
        return values

    def _set_schedules(self, step: int) -> None:
        sections = {"generator": self.run.generator_training, "discriminator": self.run.discriminator_training}
        for name, engine in self.engines.items():
            section = sections[name]
            if section is not None:
                engines.set_learning_rate(
                    engine, section.optimizer.rate(step, self.run.loop.max_steps, self.run.batch.global_batch_size)
                )
        self.quantizer.anneal(step)

    def _micro_step(self, inputs: tuple[Tensor, ...], beside: Tensor | None, step: int) -> MicroStep:
        out: Reconstruction = self.generator(*inputs)
        trainer = self._active_discriminator_trainer(step)
        loss = generator_loss(inputs[0], out, self.reconstruction_loss, trainer, self.model.last_layer, step, beside)
        self.generator.backward(loss.joined)
        self.generator.step()
        return MicroStep(EncodedBatch(out.latents.detach(), out.quantized.indices), loss.finite, loss.scalars)

    def _active_discriminator_trainer(self, step: int) -> DiscriminatorTrainer | None:
        """The adversary from its start on."""
        adversary = self.discriminator_trainer
        return adversary if adversary is not None and step >= adversary.config.disc_start else None

    def _train_on_updated_fakes(
        self, inputs: list[tuple[Tensor, ...]], besides: list[Tensor | None], step: int
    ) -> Mapping[str, Tensor]:
        """The discriminator's step where it sees what the updated generator makes."""
        adversary = self._active_discriminator_trainer(step)
        if adversary is None or adversary.config.discriminator_fakes == "same_forward":
            return {}
        return adversary.train_on_updated_fakes(
            (each[0], self._reconstruct(each), beside) for each, beside in zip(inputs, besides, strict=True)
        )

    @torch.no_grad()
    def _reconstruct(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """What the generator makes of a micro-batch now."""
        out: Reconstruction = self.model(*inputs)
        return out.reconstruction.float()

    def _end_step(
        self, micro_batches: list[Batch], passes: list[MicroStep], scalars: dict[str, Tensor], step: int
    ) -> Mapping[str, Tensor]:
        """The codebook, the averaged weights and the monitors; a step that was skipped leaves only its mark."""
        trainer = self.discriminator_trainer
        learnt = self.engines if trainer is not None and trainer.learnt else {"generator": self.generator}
        applied = engines.steps_applied(learnt)
        if trainer is not None:
            trainer.end_step(applied.get("discriminator", False))
        skipped = [name for name, done in applied.items() if not done]
        if skipped:
            scalars = {"skipped": torch.ones((), device=ranks.device())}
            self.monitors.record_skip(step, skipped, _blamed(micro_batches, passes))
        else:
            self.monitors.record(scalars)
        verdict = self.monitors.check(step, self.codebook.rolling.usage())
        if trainer is not None:
            trainer.frozen = verdict.freeze
        if applied["generator"]:
            scalars |= self.codebook.update(step, [p.coded for p in passes], verdict.replace_dead_codes)
            self.ema.update(step)
        return scalars | self.monitors.scalars()

    @torch.no_grad()
    def finished(self) -> bool:
        """Never before the last step."""
        return False

    def evaluate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Validation figures over all ranks' batches, with the averaged weights.

        Returns:
            ``psnr`` in dB and ``l1``, of maps ``accuracy`` and ``cross_entropy``; every loss of the training by its
            name there, before its weight, and ``nll_loss``, their weighted sum (``lpips_loss`` is LPIPS);
            ``quantizer_loss``; with a discriminator, what it says of them: ``d_loss``, ``logits_real``,
            ``logits_fake``, ``logits_gap``, ``discriminator_accuracy``; ``codebook/usage``, ``codebook/perplexity``;
            with ``val_features`` ``rfid`` and, of spatial features, ``sfid``, of images at 8 bits.
        """
        sums, counts = MetricSums(), torch.zeros(self.quantizer.codebook_size, device=ranks.device())
        sets = None if self.features is None else ComparedSets(self.features)
        module = self.generator.module.eval()
        with self.ema.applied(), uncompiled(module), self.reconstruction_loss.uncompiled():
            for batch, counted in equal_length_batches(batches):
                inputs = self._inputs(batch, None)
                real = inputs[0]
                out: Reconstruction = module(*inputs)
                rebuilt = out.reconstruction.float()
                adversary = self.discriminator_trainer
                judged = {} if adversary is None else adversary.judge(real, rebuilt, self._beside(batch))
                if counted:
                    add_figures(sums, self.run.target, real, rebuilt)
                    losses = self.reconstruction_loss.figures(real, rebuilt)
                    for name, value in (losses | {"quantizer_loss": out.quantized.loss} | judged).items():
                        sums.add(name, value.expand(len(real)))  # a mean of equal images, each counted
                    counts += count(out.quantized.indices, len(counts))
                    if sets is not None:
                        levels = [to_levels(three_channels(each)).byte() for each in (real, rebuilt)]
                        sets.add(levels[0], levels[1], [str(key) for key in batch["key"]])
        module.train()
        ranks.all_reduce_sum_(counts)
        codes = {"codebook/usage": usage(counts).item(), "codebook/perplexity": perplexity(counts).item()}
        return sums.means() | codes | ({} if sets is None else sets.figures("rfid"))

    def arrays(self) -> Mapping[str, Tensor]:
        """How many codes are used how often in training, as far back as the monitors look."""
        return {CODE_USE: self.codebook.rolling.histogram()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Validation samples above their reconstructions, with the averaged weights."""
        inputs = [each[:PREVIEWS] for each in self._inputs(batch, None)]
        module = self.generator.module.eval()
        with self.ema.applied(), uncompiled(module):
            rebuilt = module(*inputs).reconstruction.float()
        module.train()
        return {"reconstructions": grid(side_by_side(self.run.target, inputs[0], rebuilt))}

    def state_dict(self) -> dict[str, Any]:
        return {
            "average": self.ema.state_dict(),
            "codebook": self.codebook.state_dict(),
            "adversary": None if self.discriminator_trainer is None else self.discriminator_trainer.state_dict(),
            "sentinels": self.monitors.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.load_state_dict(state["average"])
        self.codebook.load_state_dict(state["codebook"])
        if self.discriminator_trainer is not None:
            self.discriminator_trainer.load_state_dict(state["adversary"])
        self.monitors.load_state_dict(state["sentinels"])

    def resharded(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What ``state`` would have given here, from what it gave on each of the ranks of another job."""
        return states[0] | {"average": self.ema.resharded([state["average"] for state in states])}

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights of the generator, whole, in fp32, on the host."""
        with self.ema.applied():
            return sharded_parameters.full_state_dict(self.generator.module)

    @property
    def tokenizers(self) -> dict[str, str]:
        """Digests of the frozen tokenizers that the numbers depend on: none."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """What the weights are."""
        model, perceptual = self.run.model, self.run.loss.perceptual
        return {
            "task": "vqgan",
            "model": to_mapping(model),
            "target": self.run.target,
            "factor": model.factor,
            "codes": model.codebook_size,
            "perceptual_trunk": None if perceptual is None else perceptual.trunk,
        }


def _blamed(micro_batches: list[Batch], passes: list[MicroStep]) -> list[str]:
    """The keys of this rank's samples whose own reconstruction, or whose gradient there, is not finite."""
    keys = [str(key) for batch in micro_batches for key in batch["key"]]
    finite = torch.cat([p.finite for p in passes]).tolist()
    return [key for key, good in zip(keys, finite, strict=True) if not good]
