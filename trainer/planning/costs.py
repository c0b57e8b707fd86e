"""What a training step of one sample costs, and the networks that it trains, from simulating the run's own networks.

Shapes: one sample; S the side of a crop, (h, w) the window of a prior.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...models.conditions import (
    CaptionConfig,
    CompositeConfig,
    Condition,
    ConditionConfig,
    LowResolutionConfig,
    ObjectsConfig,
    TextConfig,
)
from ...models.conditions.edit import GUIDE, MASKED
from ...models.discriminators import DiscriminatorConfig
from ...models.priors.editor import EditorConfig
from ...models.vqgan.autoencoder import VQGAN, VQGANConfig
from ...models.vqgan.palette import PaletteConfig
from ..distributed.engine import NetworkConfig
from ..jobs.networks import TrainedNetwork, trained_networks
from ..jobs.run import Run
from ..prior.config import PriorRun
from ..vqgan.adversarial import DiscriminatorTrainer
from ..vqgan.config import VQGANRun
from ..vqgan.generator_gradient import generator_loss
from ..vqgan.reconstruction_loss import ReconstructionLoss, VQGANLossConfig
from .fake_tensor_meter import Cost, Meter, forget_gradients, simulated
from .tokenizers import tokenizer_configs

LATE = 1 << 40  # a step after every start
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Costs(NamedTuple):
    """What a run trains, and what one sample costs it."""

    networks: list[TrainedNetwork]
    frozen: int  # bytes of networks that only judge or encode
    sample: Cost  # forward and backward of one sample through all networks
    tokens: int  # codes of a sample


def measure(run: Run, tokenizers: Mapping[str, VQGANConfig | PaletteConfig]) -> Costs:
    """Simulates one step of one sample. Nothing is read but the installed package, and no network is filled.

    Args:
        tokenizers: of a prior's run, the images' under "image"; others by their field, where they encode on line.
    """
    return _of_vqgan(run) if isinstance(run, VQGANRun) else _of_prior(run, tokenizers)


def step_flops(run: Run, codes: int) -> float:
    """The operations of an optimizer step, forward and backward, over all ranks.

    Args:
        codes: K, of a prior's tokenizer, whose shape is asked only where it encodes on line.
    """
    on_line = isinstance(run, PriorRun) and not run.train_data.holds_codes
    costs = measure(run, tokenizer_configs(run, None if on_line else codes))
    return costs.sample.flops * run.batch.global_batch_size


def _of_vqgan(run: VQGANRun) -> Costs:
    size = run.train_data.crop.output[0] if run.train_data.crop is not None else 0
    with simulated(DTYPES[run.generator_training.engine.precision]):
        generator = run.model.build()
        forget_gradients(generator)
    discriminator = None
    if run.loss.adversarial is not None and run.discriminator_training is not None:
        training = run.discriminator_training
        discriminator = _discriminator(run.discriminator, run.judged_channels, training)
    judge = _judge(run.loss, maps=run.target == "segmentation")
    meter = Meter()
    with simulated():
        real = torch.zeros(1, run.model.in_channels, size, size)
        if run.target == "segmentation":
            real = torch.zeros(1, size, size, dtype=torch.int64)
        masked = () if run.masks is None else (torch.zeros(1, size, size, dtype=torch.bool),)
        with meter():
            _vqgan_step(run, generator, discriminator, judge, (real, *masked))
    frozen = sum(_bytes(network) for network in (judge.lpips, judge.logits) if network is not None)
    networks = trained_networks(run, run.model.codebook_size)
    return Costs(networks, frozen, meter.cost, (size // run.model.factor) ** 2)


def _vqgan_step(
    run: VQGANRun,
    generator: VQGAN,
    discriminator: nn.Module | None,
    judge: ReconstructionLoss,
    inputs: tuple[Tensor, ...],
) -> None:
    """A step of ``VQGANTask`` after the adversarial loss has reached its weight."""
    trainer = None
    if discriminator is not None and run.loss.adversarial is not None and run.discriminator_training is not None:
        engine = _Plain(discriminator, run.discriminator_training.engine.zero_stage)
        trainer = DiscriminatorTrainer(run.loss.adversarial, engine)
    beside = None
    if run.judged_beside is not None:
        beside = torch.zeros(1, run.judged_beside.channels, *inputs[0].shape[2:])
    loss = generator_loss(inputs[0], generator(*inputs), judge, trainer, generator.last_layer, LATE, beside)
    loss.joined.backward()  # type: ignore[no-untyped-call]
    if trainer is not None and trainer.config.discriminator_fakes == "updated_generator":
        with torch.no_grad():
            fake = generator(*inputs).reconstruction.float()
        trainer.train_on_updated_fakes([(inputs[0], fake, beside)])


class _Plain:
    """What a discriminator's trainer needs of an engine, without DeepSpeed."""

    def __init__(self, module: nn.Module, stage: int) -> None:
        self.module = module
        self._stage = stage

    def __call__(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None: ...

    def zero_optimization_stage(self) -> int:
        return self._stage


def _of_prior(run: PriorRun, tokenizers: Mapping[str, VQGANConfig | PaletteConfig]) -> Costs:
    image = tokenizers["image"]
    meter = Meter()
    on_line = not run.train_data.holds_codes
    frozen = 0
    if on_line:
        with simulated():
            for config in tokenizers.values():
                network = config.build().requires_grad_(False)
                frozen += _bytes(network)
                with meter():
                    network.encode(_input_of(config, run.model.window))
    with simulated(DTYPES[run.training.engine.precision]):
        prior = run.model.build(image.codebook_size, run.condition)
        forget_gradients(prior)
        fields = _fields(run.condition, prior.condition, run.model.window)
        if isinstance(run.model, EditorConfig):
            fields |= _edit_fields(run.model)
        codes = torch.zeros(1, *run.model.window, dtype=torch.int64)
        dropped = torch.zeros(1, dtype=torch.bool)
        with meter():
            prior(codes, fields, targets=codes, dropped=dropped).loss.mean().backward()
    networks = trained_networks(run, image.codebook_size)
    return Costs(networks, frozen, meter.cost, run.model.window[0] * run.model.window[1])


def _fields(config: ConditionConfig, condition: Condition, window: tuple[int, int]) -> dict[str, Tensor]:
    """A made-up sample with everything that a condition reads."""
    fields = {
        "cls": torch.zeros(1, dtype=torch.int64),
        "box": torch.zeros(1, 4, dtype=torch.float32),
        "source_size": torch.ones(1, 2, dtype=torch.float32),
        "flip": torch.zeros(1, dtype=torch.bool),
    }
    fields |= {name: torch.zeros(1, *window, dtype=torch.int64) for name in condition.fields if name.endswith("codes")}
    for part in config.conditions if isinstance(config, CompositeConfig) else (config,):
        if isinstance(part, TextConfig | CaptionConfig):
            fields[part.field] = torch.zeros(1, part.tokens, part.channels)
        elif isinstance(part, LowResolutionConfig):
            sides = (side * part.pixels_per_code for side in window)
            fields[part.field] = torch.zeros(1, part.channels, *sides)
        elif isinstance(part, ObjectsConfig):
            fields["object_classes"] = torch.zeros(1, part.objects, dtype=torch.int64)
            fields["object_boxes"] = torch.zeros(1, part.objects, 4)
    return fields


def _edit_fields(config: EditorConfig) -> dict[str, Tensor]:
    """What an editor reads besides: a mask, and what a guide looks at."""
    blocks = config.blocks[0] * config.blocks[1]
    looks = [torch.zeros(1, layers, config.heads, blocks, blocks, dtype=torch.float32)
             for layers in (config.encoder_layers, config.decoder_layers, config.decoder_layers)]  # fmt: skip
    masked = torch.zeros(1, *config.window, dtype=torch.bool)
    return {MASKED: masked, **dict(zip(GUIDE, looks, strict=True))}


def _discriminator(config: DiscriminatorConfig, channels: int, training: NetworkConfig) -> nn.Module:
    with simulated(DTYPES[training.engine.precision]):
        network = config.build(channels)
        forget_gradients(network)
        return network


def _judge(config: VQGANLossConfig, maps: bool) -> ReconstructionLoss:
    """The judge of a run with random networks of the same shapes: theirs need not be on this machine."""
    perceptual = config.perceptual and replace(config.perceptual, trunk="random", path=None)
    logits = config.classifier_logits and replace(config.classifier_logits, classifier="random", path=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are random
        judge = ReconstructionLoss(replace(config, perceptual=perceptual, classifier_logits=logits), maps)
    for network in (judge.lpips, judge.logits):
        if network is not None:
            network.cpu()  # the simulation is of one device
    return judge


def _input_of(config: VQGANConfig | PaletteConfig, window: tuple[int, int]) -> Tensor:
    height, width = (side * config.factor for side in window)
    if config.num_labels is not None:
        return torch.zeros(1, height, width, dtype=torch.int64)
    return torch.zeros(1, config.in_channels, height, width)


def _bytes(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
