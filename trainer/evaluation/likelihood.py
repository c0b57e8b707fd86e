"""How likely a prior finds the codes of a data set.

Shapes: B grids, h rows and w columns of the prior's window, K codes.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...models.priors.base import Prediction
from ...models.sampling import SamplingConfig
from ...models.sampling.scoring import drawn_nats
from ..checkpoint.loading import LoadedPrior
from ..data.inputs import sample_seeds
from ..distributed import ranks
from ..prior.online_encoder import coded
from ..training.evaluation import MetricSums, likelihood
from .data import protocol_of_samples
from .prior_data import PriorData
from .results import Evaluation


class LikelihoodSums:
    """Sums over this rank's windows.

    Args:
        drawn: how codes are drawn in sampling, for the likelihood under what is drawn from.
    """

    def __init__(self, prior: LoadedPrior, drawn: SamplingConfig) -> None:
        self.prior, self.drawn = prior, drawn
        self.means = MetricSums()
        self.by_position = torch.zeros(prior.model.window, dtype=torch.float64, device=ranks.device())
        self.windows = torch.zeros((), dtype=torch.float64, device=ranks.device())

    @torch.no_grad()
    def add(self, fields: dict[str, Tensor]) -> None:
        """Predict every code of some windows from those before it in the prior's order."""
        codes = fields["codes"]
        predicted: Prediction = self.prior.model(codes, fields)
        if predicted.logits is None:
            raise ValueError("the prior gave no logits")
        logits = predicted.logits.float()  # (B, h, w, K)
        nats = F.cross_entropy(rearrange(logits, "b h w k -> b k h w"), codes, reduction="none")
        better = (logits > logits.gather(3, codes[..., None])).sum(dim=3)
        self.means.add("nats", nats)
        for most in (1, 5):
            self.means.add(f"top{most}", (better < most).double())
        if not self.drawn.greedy:
            plain = self.drawn == SamplingConfig()
            drawn = nats if plain else drawn_nats(self.prior.model, fields, codes, logits, self.drawn)
            self.means.add("drawn", drawn)
            self.means.add("kept", drawn.isfinite().double())
        self.by_position += nats.double().sum(dim=0)
        self.windows += len(codes)

    def figures(self) -> dict[str, float]:
        """The figures over all ranks. Every rank must call this, once."""
        means = self.means.means()
        found = likelihood(means["nats"], self.prior.model.codes)
        per_pixel = found["bits_per_code"] / self.prior.metadata["factor"] ** 2
        found |= {"bits_per_pixel": per_pixel, "top1": means["top1"], "top5": means["top5"]}
        return found if self.drawn.greedy else found | {"drawn_nll": means["drawn"], "drawn_kept": means["kept"]}

    def nll_by_position(self) -> list[list[float]]:
        """(h, w) mean nats of the code at each place of the window, over all ranks. Every rank must call this, once."""
        sums = ranks.all_reduce_sum_(self.by_position) / ranks.all_reduce_sum_(self.windows)
        return [[float(nats) for nats in row] for row in sums]


def evaluate_likelihood(
    prior: LoadedPrior, data: PriorData, drawn: SamplingConfig, say: Callable[[str], None]
) -> Evaluation:
    """The likelihood of every sample once, over all ranks. Every rank must call this with its own part of the data.

    Raises:
        AgreedError: no sample can be used, or too many cannot; on every rank.
    """
    sums = LikelihoodSums(prior, drawn)

    def go() -> int:
        keys: set[str] = set()
        for batch in data.samples.batches(say):
            sums.add(coded(batch, data.encoder, sample_seeds(batch, 0)))
            keys.update(map(str, batch["key"]))
        return len(keys)

    samples = sum(ranks.all_gather_object(ranks.agreed(go)))
    if not samples:
        raise ranks.AgreedError("no sample can be used; the log names what is wrong with each")
    figures = sums.figures()
    counted, warnings = protocol_of_samples(data.samples, samples)
    details = {"windows": int(ranks.all_reduce_sum_(sums.windows.clone())), "nll_by_position": sums.nll_by_position()}
    protocol = likelihood_protocol(prior, data, drawn)
    return Evaluation(figures, protocol | counted, warnings, details)


def likelihood_protocol(prior: LoadedPrior, data: PriorData, drawn: SamplingConfig) -> dict[str, Any]:
    """What figures of a prior must say of it and of its codes."""
    precision = str(next(prior.model.parameters()).dtype).removeprefix("torch.")
    return {
        "task": "likelihood of codes",
        "weights": prior.metadata["digest"],
        "tokenizer": prior.metadata["tokenizer"],
        **data.samples.protocol(),
        "codes": "of whole grids, as stored" if data.encoder is None else "encoded from the crops",
        "batch": data.samples.config.batch,
        "precision": precision,
        "torch": torch.__version__,
        "sampling": _words(drawn),
    }


def _words(drawn: SamplingConfig) -> str:
    said = {
        "temperature": drawn.temperature,
        "top_k": drawn.top_k,
        "top_p": drawn.top_p,
        "greedy": drawn.greedy,
        "guidance": f"{drawn.guidance.scale:g} {drawn.guidance.schedule}",
    }
    return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)
