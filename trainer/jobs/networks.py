"""The networks that a run trains, and how many bytes a checkpoint of them takes."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from ..distributed.engine import EngineConfig, NetworkConfig
from ..prior.config import PriorRun
from ..vqgan.config import VQGANRun

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of a number in training."""


class TrainedNetwork(NamedTuple):
    """A network that is trained."""

    section: str  # of the config: its training
    parameters: int
    training: NetworkConfig
    averaged: bool  # whether averaged weights are kept beside it
    copies: int  # in fp32, which a checkpoint holds beside the engine's files: the average, the best, those for use


def trained_networks(run: VQGANRun | PriorRun, codes: int) -> list[TrainedNetwork]:
    """The networks of a run, without giving them memory.

    Args:
        codes: K, of a prior's tokenizer; a VQGAN has its own.
    """
    averaged = run.ema_decay > 0
    with torch.device("meta"):
        if isinstance(run, PriorRun):
            prior = parameters(run.model.build(codes, run.condition))
            copies = 1 + averaged + (run.early_stopping is not None)
            return [TrainedNetwork("training", prior, run.training, averaged, copies)]
        generator = parameters(run.model.build())
        networks = [
            TrainedNetwork("generator_training", generator, run.generator_training, averaged, copies=1 + averaged)
        ]
        if run.loss.adversarial is not None and run.discriminator_training is not None:
            discriminator = parameters(run.discriminator.build(run.judged_channels))
            training = run.discriminator_training
            networks.append(TrainedNetwork("discriminator_training", discriminator, training, False, copies=0))
    return networks


def checkpoint_bytes(networks: Iterable[TrainedNetwork]) -> int:
    """What a checkpoint takes on the disk, all ranks together and however many they are."""
    return sum(_bytes(network, network.training.engine) for network in networks)


def _bytes(network: TrainedNetwork, engine: EngineConfig) -> int:
    states = 8 if engine.zero_stage == 0 else 12  # moments, and masters where weights are not their own
    return network.parameters * (BYTES[engine.precision] + states + 4 * network.copies)


def parameters(network: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
