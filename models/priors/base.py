"""What every prior over grids of codes shares: its results, its chances in training, and how it is called.

Shapes: B samples, (h, w) the window of codes a prior is trained on, N = h * w, K codes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..conditions import Condition, Fields
from ..transformer.sequence_parallel import Exchange
from .decoding import Decoder, DecodingRequest


class Prediction(NamedTuple):
    """What a prior says of a batch: the loss where targets were given, the logits where not."""

    logits: Tensor | None  # (B, h, w, K)
    loss: Tensor | None  # (B, h, w) float32: nats per code, 0 where the target is ignored
    ranks: Tensor | None = None  # (B, h, w) int64, in evaluation mode: how many codes were likelier than the target


class TrainingInputs(NamedTuple):
    """What chance decides about one training batch."""

    inputs: Tensor  # (B, h, w) the codes to be read, some replaced
    dropped: Tensor  # (B,) bool: samples that lose their condition
    order: Tensor | None  # (B, N) the cells in the order of prediction; None for the prior's own


class Prior(nn.Module):
    """A causal model of grids of codes: what samplers and tasks rely on.

    ``prior(inputs, fields, targets, dropped, order)`` gives a ``Prediction``. Training calls it once a micro-batch,
    through its engine and with targets, so that every parameter is used inside that one call.

    Args:
        codes: K, the codes of the images' tokenizer.
        window: rows and columns of codes the prior is trained on.
        condition: what it is conditioned on an image.
        keep: the chance that an input code is kept in training.
        condition_dropout: the chance that a sample loses its condition in training.
    """

    def __init__(
        self, codes: int, window: tuple[int, int], condition: Condition, keep: float, condition_dropout: float
    ) -> None:
        super().__init__()
        self.codes = codes
        self.window = window
        self.condition = condition
        self.keep = keep
        self.condition_dropout = condition_dropout

    def draw(self, indices: Tensor, seeds: Sequence[int], progress: float = 0.0) -> TrainingInputs:
        """The chances of a training batch: replaced codes, dropped conditions, random orders.

        Sample b depends on ``seeds[b]`` alone, so it is the same on whichever rank and in whichever batch it comes.

        Args:
            indices: (B, h, w) int64 codes.
            seeds: B numbers, such as hashes of (seed, step, place in the global batch).
            progress: in [0, 1] through the training.
        """
        kept, fresh, dropped, orders = [], [], [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            dropped.append(torch.rand((), generator=generator) < self.condition_dropout)
            if self.keep < 1:  # the reference's pkeep
                kept.append(torch.rand(self.window, generator=generator) < self.keep)
                fresh.append(torch.randint(self.codes, self.window, generator=generator))
            orders.append(self.draw_order(generator, progress))
        drawn = [order for order in orders if order is not None]
        inputs = torch.where(_sent(kept, indices), indices, _sent(fresh, indices)) if kept else indices
        return TrainingInputs(inputs, _sent(dropped, indices), _sent(drawn, indices) if drawn else None)

    def check_guidance(self, fields: Fields) -> None:
        """Refuse guidance of a prior that always had its condition.

        Args:
            fields: what it is conditioned on.

        Raises:
            ValueError: it has never learnt what is likely without a condition.
        """
        if self.condition_dropout == 0:
            raise ValueError(
                "guidance needs a prior that was trained without its condition now and then; "
                "train one with condition_dropout above 0 (0.1 is usual), or leave the scale at 1"
            )

    def draw_order(self, generator: torch.Generator, progress: float) -> Tensor | None:
        """The (N,) order of one training sample on the CPU; None for a prior that has but one."""
        return None

    def counted(self, fields: Fields) -> Tensor | None:
        """(B, h, w) bool, the codes of a batch whose loss counts; None where all do."""
        return None

    def rows_at_once(self, columns: int) -> int:
        """How many rows of a grid of so many columns can be sampled staggered, where enough lanes are given."""
        raise NotImplementedError

    def decoder(self, request: DecodingRequest) -> Decoder:
        """What samples the images of a request code by code."""
        raise NotImplementedError

    def share_sequence(self, exchange: Exchange) -> None:
        """Let several ranks share every sequence of a training forward, each with some of its positions.

        All of them must then call it with the same batch, and all get the whole result.

        Raises:
            ValueError: the prior cannot be shared.
        """
        raise ValueError("sequence_parallel_size above 1 are for priors of kind gpt; set sequence_parallel_size: 1")

    def check_window(self, indices: Tensor) -> None:
        """Refuse (B, h, w) codes of another size than the window's."""
        if indices.shape[1:] != self.window:
            raise ValueError(
                f"the prior reads windows of {self.window} codes, got {tuple(indices.shape[1:])}; "
                "cut the grid to windows, or sample with smalti.models.sampling"
            )

    def check_raster(self, kind: str, order: Tensor | None) -> None:
        """Refuse an order, where priors of the kind have but one."""
        if order is not None:
            raise ValueError(f"the prior {kind!r} has one order, the raster's; leave order out")


def _sent(samples: list[Tensor], like: Tensor) -> Tensor:
    """What was drawn for each sample, as one tensor beside ``like``; the host does not wait for it."""
    return torch.stack(samples).to(like.device, non_blocking=True)
