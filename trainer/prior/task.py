"""One optimizer step of next-code prediction.

Shapes: B grids of a rank's micro-batch, h rows and w columns of codes, K codes.
"""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.priors.base import Prediction, Prior
from ...models.vqgan.autoencoder import VQGAN
from ...models.vqgan.palette import Palette
from ..checkpoint.loading import LoadedTokenizer, TokenizerRef, load_tokenizer
from ..config import to_mapping
from ..data.collate import Batch
from ..data.inputs import sample_seeds
from ..distributed import engine as engines
from ..distributed import ranks, sharded_parameters
from ..distributed.compilation import uncompiled
from ..distributed.engine_protocol import ShardedEngine
from ..distributed.owned_weights import owned
from ..training.arrays import NLL_BY_POSITION, GridMeans
from ..training.early_stopping import EarlyStopping
from ..training.ema import EMA
from ..training.evaluation import MetricSums, equal_length_batches, likelihood
from ..training.loop import reseed
from ..training.metrics import grid
from .condition_previews import condition_rows
from .config import PriorRun
from .data import CodeSource
from .online_encoder import coded
from .previews import Budget, sampled_preview
from .val_samples import ValSamples

_LOG = logging.getLogger(__name__)


class _NoTokenizerError(Exception):
    """The tokenizer is not there any more."""


class PriorTask:
    """Trains a prior over a tokenizer's codes. Every rank makes one and calls the same methods.

    Args:
        prior: the network.
        source: where the codes come from.
        accumulation: micro-batches of one optimizer step.
    """

    def __init__(self, run: PriorRun, prior: Prior, source: CodeSource, accumulation: int) -> None:
        self.run = run
        self.source = source
        self.codes: int = source.metadata["codes"]
        self.engine = engines.build(
            prior.to(ranks.device()),
            run.training.engine,
            run.training.optimizer,
            micro_batch=run.batch.micro_batch_size,
            accumulation=accumulation,
        )
        self.engines: dict[str, ShardedEngine] = {"prior": self.engine}
        self.ema = EMA(owned(self.engine), run.ema_decay)
        self.early_stopping = None if run.early_stopping is None else EarlyStopping(run.early_stopping)
        self.budget = None if run.previews is None else Budget(run.previews.share)
        self._nll_by_position: Tensor | None = None  # (h, w), once evaluated
        self.val_samples: ValSamples | None = None
        if run.val_samples is not None:
            tokenizer = load_tokenizer(source.tokenizer or run.tokenizer, ranks.device())
            self.val_samples = ValSamples(run.val_samples, tokenizer, run.model.window[0] * source.metadata["factor"])

    @property
    def prior(self) -> Prior:
        """The network inside the engine."""
        prior: Prior = self.engine.module
        return prior

    def parts(self) -> dict[str, nn.Module]:
        """The modules whose time a profile shows."""
        return dict(self.prior.named_children())

    def step(self, micro_batches: list[Batch], step: int) -> Mapping[str, Tensor]:
        """One optimizer step; the loss is in nats per code."""
        began = time.monotonic()
        reseed(self.run.seed, step)
        steps = self.run.loop.max_steps
        engines.set_learning_rate(
            self.engine, self.run.training.optimizer.rate(step, steps, self.run.batch.global_batch_size)
        )
        losses = []
        read = [self.fields(batch, step) for batch in micro_batches]
        counted = self._counted(read)
        for batch, fields in zip(micro_batches, read, strict=True):
            codes = fields["codes"]
            seeds = sample_seeds(batch, self.run.seed, step)
            draw = self.prior.draw(codes, seeds, step / steps)
            given = self.prior.condition.for_training(fields, seeds)
            predicted: Prediction = self.engine(
                draw.inputs, given, targets=codes, dropped=draw.dropped, order=draw.order
            )
            each = nats(predicted)
            loss = each.mean() if counted is None else each.sum() / counted
            self.engine.backward(loss)
            self.engine.step()
            losses.append(loss.detach())
        self.ema.update(step)
        if self.budget is not None:
            self.budget.train(time.monotonic() - began)
        return {"nll": torch.stack(losses).mean()}

    def _counted(self, read: Sequence[Mapping[str, Tensor]]) -> Tensor | None:
        """How many codes of a micro-batch have a loss, on the mean over this step's on all ranks; None: all have.

        So the loss is the mean over all such codes of the step, however they are dealt out.
        """
        counted = [self.prior.counted(fields) for fields in read]
        numbers = [each.sum() for each in counted if each is not None]
        if not numbers:
            return None
        return ranks.all_reduce_mean_(torch.stack(numbers).float().mean())

    def fields(self, batch: Batch, step: int | None = None) -> dict[str, Tensor]:
        """The codes and what the condition reads, on this rank's device.

        Args:
            step: in which masks are drawn; None draws those of validation, always the same.
        """
        when = () if step is None else (step,)
        return coded(batch, self.source.encoder, sample_seeds(batch, self.run.seed, *when))

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Validation figures over all ranks' batches, with the averaged weights.

        Returns:
            ``nll`` and ``bits_per_code`` in nats and bits, ``perplexity``, ``normalized_nll``, the share of ln K;
            ``top1`` and ``top5``, the share of codes that were the likeliest, or one of the five likeliest; with
            ``val_samples`` ``fid_to_rebuilt`` and, of spatial features, ``sfid``, of images that are sampled.
        """
        sums, places = MetricSums(), GridMeans()
        windows = None if self.val_samples is None else self.val_samples.windows()
        prior = self.prior.eval()
        with self.ema.applied(), uncompiled(prior):
            for batch, counted in equal_length_batches(batches):
                fields = self.fields(batch)
                predicted = prior(fields["codes"], fields, targets=fields["codes"])
                each, of_these = nats(predicted), prior.counted(fields)
                if of_these is None:
                    of_these = torch.ones_like(each, dtype=torch.bool)
                places.add(each, of_these & counted)
                if counted:
                    sums.add("nats", each[of_these])
                    for first in (1, 5):
                        sums.add(f"top{first}", (predicted.ranks < first)[of_these])
                    if windows is not None:
                        windows.add([str(key) for key in batch["key"]], fields)
        prior.train()
        self._nll_by_position = places.means()
        means = sums.means()
        figures = likelihood(means.pop("nats"), self.codes) | means
        if self.early_stopping is not None:
            self.early_stopping.update(figures["nll"], self.ema.values)
        if self.val_samples is not None and windows is not None:
            with self.ema.applied():
                weights = sharded_parameters.full_state_dict(self.prior)
            figures |= self.val_samples.figures(self._copy(weights), windows)
        return figures

    def arrays(self) -> Mapping[str, Tensor]:
        """The nats per code of the last evaluation by where in the window a code lies."""
        return {} if self._nll_by_position is None else {NLL_BY_POSITION: self._nll_by_position}

    def finished(self) -> bool:
        """Whether the validation loss has stopped falling. Alike on all ranks."""
        return self.early_stopping is not None and self.early_stopping.finished

    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Samples of the averaged weights, on rank 0; nothing where they would take too much of the training's time."""
        if self.budget is None or not self.budget.affordable():
            return {}
        began = self.budget.clock()
        weights = self.weights()
        shown = self._sampled_preview(batch, weights, began) if ranks.rank() == 0 else {}
        spent = self.budget.clock() - began
        self.budget.spent += spent
        if shown:
            self.budget.cost = spent
        return shown

    def _sampled_preview(self, batch: Batch, weights: dict[str, Tensor], began: float) -> dict[str, Tensor]:
        """The preview by a copy of the network, or nothing and a note of its price."""
        config, budget = self.run.previews, self.budget
        if config is None or budget is None:
            return {}
        prior = self._copy(weights)
        fields = {name: value[: config.images] for name, value in self.fields(batch).items()}
        ready = budget.clock()

        def affordable(share: float) -> bool:
            budget.cost = ready - began + (budget.clock() - ready) / share
            return budget.cost <= budget.left

        try:
            shown = sampled_preview(prior, self._tokenizer, fields, fields["codes"], config, affordable)
            return shown | (self._conditions(batch, fields) if shown else {})
        except _NoTokenizerError as error:
            _LOG.warning("no preview: %s", error)
            return {}

    def _copy(self, weights: Mapping[str, Tensor]) -> Prior:
        """The whole network with such weights, outside of any engine."""
        prior = self.run.model.build(self.codes, self.run.condition)
        prior.load_state_dict(weights)
        return prior.to(ranks.device()).eval()

    def _conditions(self, batch: Batch, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the samples of the preview were conditioned on, where that can be shown."""
        given = {name: value[: len(fields["codes"])] for name, value in batch.items() if isinstance(value, Tensor)}
        tokenizers = {field: self._loaded(ref) for field, ref in self.source.condition_refs.items()}
        rows, columns = (side * self.source.metadata["factor"] for side in fields["codes"].shape[1:])
        shown = condition_rows(given, fields, tokenizers, (rows, columns))
        return {"conditions": grid(shown)} if shown else {}

    def _tokenizer(self) -> VQGAN | Palette:
        return self._loaded(self.source.tokenizer or self.run.tokenizer).model

    @staticmethod
    def _loaded(where: TokenizerRef | str) -> LoadedTokenizer:
        try:
            return load_tokenizer(where, ranks.device())
        except (OSError, ValueError) as error:  # training goes on without it: it may have been moved in the meantime
            raise _NoTokenizerError(f"a tokenizer cannot be loaded: {error}") from error

    def state_dict(self) -> dict[str, Any]:
        return {
            "average": self.ema.state_dict(),
            "stopping": None if self.early_stopping is None else self.early_stopping.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.load_state_dict(state["average"])
        if self.early_stopping is not None and state["stopping"] is not None:
            self.early_stopping.load_state_dict(state["stopping"])

    def resharded(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What ``state`` would have given here, from what it gave on each of the ranks of another job."""
        average = self.ema.resharded([state["average"] for state in states])
        stopping = states[0]["stopping"]
        if stopping is not None and not math.isinf(stopping["best"]):
            best = self.ema.resharded([state["stopping"]["weights"] for state in states])
            stopping = stopping | {"weights": best}
        return {"average": average, "stopping": stopping}

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, whole, in fp32, on the host: of the best evaluation where the run stops early."""
        stopping = self.early_stopping
        best = None if stopping is None or math.isinf(stopping.best) else stopping.weights
        with self.ema.applied(best):
            return sharded_parameters.full_state_dict(self.prior)

    @property
    def tokenizers(self) -> dict[str, str]:
        """Digests of the frozen networks that the numbers depend on: tokenizers by what they encode, and the guide."""
        guide = {} if self.source.guide is None else {"guide": self.source.guide}
        return {"image": self.source.metadata["digest"]} | self.source.condition_tokenizers | guide

    def metadata(self) -> dict[str, Any]:
        """What the weights are."""
        return {
            "task": "prior",
            "model": to_mapping(self.run.model),
            "condition": to_mapping(self.run.condition),
            "codes": self.codes,
            "factor": self.source.metadata["factor"],
            "tokenizer": self.source.metadata["digest"],
            "condition_tokenizers": self.source.condition_tokenizers,
            **({} if self.source.guide is None else {"guide": self.source.guide}),
        }


def nats(prediction: Prediction) -> Tensor:
    """The loss of every code, (B, h, w) in nats.

    Raises:
        ValueError: the prior was asked for logits.
    """
    if prediction.loss is None:
        raise ValueError("the prior was called without targets, so it has no loss; pass targets")
    return prediction.loss
