"""One optimizer step of next-code prediction.

Shapes: B grids of a rank's micro-batch, h rows and w columns of codes, K codes.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..models.prior import Prediction, Prior
from . import engine as engines
from . import ranks
from .config import to_mapping
from .ema import WeightAverage
from .evaluation import Sums, in_step, likelihood
from .keys import mix, text_key
from .stream import Batch
from .training import reseed

if TYPE_CHECKING:
    from .runs import PriorRun


class PriorTask:
    """Trains a prior over a tokenizer's codes. Every rank makes one and calls the same methods.

    Args:
        prior: the network.
        tokenizer: the card of the VQGAN whose codes these are.
        accumulation: micro-batches of one optimizer step.
    """

    def __init__(self, run: "PriorRun", prior: Prior, tokenizer: Mapping[str, Any], accumulation: int) -> None:
        self.run = run
        self.tokenizer = tokenizer
        self.codes: int = tokenizer["codes"]
        self.engine = engines.build(
            prior.to(ranks.device()),
            run.training.engine,
            run.training.optimizer,
            micro_batch=run.batch.micro,
            accumulation=accumulation,
        )
        self.engines: dict[str, Any] = {"prior": self.engine}
        self.average = WeightAverage(self.prior, run.average, engines.local)

    @property
    def prior(self) -> Prior:
        """The network inside the engine."""
        prior: Prior = self.engine.module
        return prior

    def step(self, micro_batches: list[Batch], step: int) -> Mapping[str, Tensor]:
        """One optimizer step; the loss is in nats a code."""
        reseed(self.run.seed, step)
        steps = self.run.loop.steps
        engines.set_rate(self.engine, self.run.training.optimizer.rate(step, steps, self.run.batch.total))
        losses = []
        for batch in micro_batches:
            fields = tensors(batch)
            codes = fields["codes"].long()
            keys = [mix(self.run.seed, step, text_key(str(key))) for key in batch["key"]]
            draw = self.prior.draw(codes, keys, step / steps)
            predicted: Prediction = self.engine(
                draw.inputs, fields, targets=codes, dropped=draw.dropped, order=draw.order
            )
            loss = nats(predicted).mean()
            self.engine.backward(loss)
            self.engine.step()
            losses.append(loss.detach())
        self.average.update(step)
        return {"nats_per_code": torch.stack(losses).mean()}

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Held-out nats and bits a code, perplexity and share of ln K, with the averaged weights."""
        sums = Sums()
        prior = self.prior.eval()
        with self.average.applied():
            for batch, counted in in_step(batches):
                fields = tensors(batch)
                codes = fields["codes"].long()
                each = nats(prior(codes, fields, targets=codes))
                if counted:
                    sums.add("nats", each)
        prior.train()
        return likelihood(sums.means()["nats"], self.codes)

    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """A prior alone has no pictures to show; the sample command paints them."""
        return {}

    def state(self) -> dict[str, Any]:
        return {"average": self.average.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.average.load_state(state["average"])

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, whole, in fp32, on the host."""
        with self.average.applied():
            return engines.whole_state(self.prior)

    def card(self) -> dict[str, Any]:
        """What the weights are."""
        return {
            "task": "prior",
            "model": to_mapping(self.run.model),
            "condition": to_mapping(self.run.condition),
            "codes": self.codes,
            "factor": self.tokenizer["factor"],
            "tokenizer": self.tokenizer["digest"],
        }


def nats(prediction: Prediction) -> Tensor:
    """The loss of every code, (B, h, w) in nats.

    Raises:
        ValueError: the prior was asked for logits.
    """
    if prediction.loss is None:
        raise ValueError("the prior was called without targets, so it has no loss; pass targets")
    return prediction.loss


def tensors(batch: Batch) -> dict[str, Tensor]:
    """The batch's tensors on this rank's device."""
    device = ranks.device()
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
