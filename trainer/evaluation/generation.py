"""What a prior samples under the conditions of a data set, compared with the images of that set.

Shapes: B samples, H rows, W columns, (h, w) the prior's window, D features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.metrics import confusion
from ...models.metrics.inception_score import InceptionSums
from ...models.metrics.precision_recall import precision_recall
from ...models.pixel_range import to_levels
from ...models.sampling import SamplingConfig
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..data.collate import Batch
from ..data.inputs import sample_seeds
from ..distributed import ranks
from ..frozen_networks.feature_networks import FeatureNetwork
from ..frozen_networks.image_sets import ComparedSets, distances
from ..frozen_networks.segmenters import Segmenter
from ..keyed_random import text_key
from ..prior.online_encoder import coded
from ..prior.val_samples import sampled_windows
from ..sampling.job import check_pair
from .data import protocol_of_samples
from .likelihood import LikelihoodSums, likelihood_protocol
from .prior_data import PriorData
from .references import (
    ROUNDING,
    ReferenceFiles,
    checked_reference,
    few_on_either_side,
    reference_protocol,
    save_reference,
)
from .results import Evaluation

NEIGHBORS = 3  # of precision and recall, as in their paper


class SampledPair(NamedTuple):
    """A prior and the tokenizer of its codes."""

    prior: LoadedPrior
    tokenizer: LoadedTokenizer


class Sampling(NamedTuple):
    """How images are sampled, one for each sample of the data set and under its conditions."""

    config: SamplingConfig
    seed: int


class GenerationSums:
    """Sums over this rank's samples, and their features."""

    def __init__(
        self, pair: SampledPair, sampling: Sampling, network: FeatureNetwork, segmenter: Segmenter | None
    ) -> None:
        self.pair, self.sampling = pair, sampling
        self.network, self.segmenter = network, segmenter
        self.sets = ComparedSets(network)
        self.scores = InceptionSums(network.classes, ranks.device()) if network.classes else None
        labels = 0 if segmenter is None else segmenter.labels
        self.labels = torch.zeros(labels, labels, dtype=torch.int64, device=ranks.device())
        self.numbers: list[int] = []
        self.features: list[Tensor] = []  # (B, 2, D) float32 on the host: of real and made images

    def add(self, batch: Batch, fields: dict[str, Tensor]) -> None:
        """Sample an image under the conditions of each sample of a batch, and take in what became of them."""
        keys = [str(key) for key in batch["key"]]
        numbers = [text_key(key) >> 1 for key in keys]  # a sample's randomness belongs to its key
        levels = self._sampled(fields, numbers)
        images = batch["image"]
        if not isinstance(images, Tensor):
            raise TypeError(f"the batch's image must be a tensor, got {type(images).__name__}")
        real, made = self.sets.add(images.to(levels.device), levels, keys)
        if self.scores is not None and made.logits is not None:
            self.scores.add(made.logits)
        self.numbers += numbers
        self.features.append(torch.stack([real.pooled, made.pooled], dim=1).float().cpu())
        truth = batch.get("segmentation")
        if self.segmenter is not None and isinstance(truth, Tensor):
            self.labels += confusion.confusion(
                truth.to(levels.device), self.segmenter.find(levels), self.segmenter.labels
            )

    @torch.no_grad()
    def _sampled(self, fields: dict[str, Tensor], numbers: list[int]) -> Tensor:
        """(B, 3, H, W) uint8 images."""
        codes = sampled_windows(self.pair.prior.model, fields, numbers, self.sampling.seed, self.sampling.config)
        return to_levels(self.pair.tokenizer.decode(codes)).byte()

    def gathered(self) -> tuple[Tensor, Tensor] | None:
        """(N, D) features of all real and all made images, in the order of their numbers, on rank 0; None elsewhere.

        Every rank must call this.
        """
        mine = torch.cat(self.features) if self.features else torch.zeros(0, 2, self.network.dimensions)
        most = max(ranks.all_gather_object(len(mine)))
        device = ranks.device()
        rows = torch.zeros(most, 2, self.network.dimensions, device=device)
        rows[: len(mine)] = mine.to(device)
        numbers = torch.full((most,), -1, dtype=torch.int64, device=device)
        numbers[: len(mine)] = torch.tensor(self.numbers, dtype=torch.int64)
        numbers, rows = ranks.all_gather(numbers), ranks.all_gather(rows)
        if ranks.rank() != 0:
            return None
        order = numbers.argsort()[int((numbers < 0).sum()) :]
        real, made = rows[order].double().unbind(1)
        return real, made


def evaluate_generation(
    pair: SampledPair,
    data: PriorData,
    network: FeatureNetwork,
    segmenter: Segmenter | None,
    sampling: Sampling,
    files: ReferenceFiles,
    say: Callable[[str], None],
) -> Evaluation:
    """Sample an image for each sample once, over all ranks; the likelihood of the samples' own codes beside it.

    Every rank must call this with its own part of the data, which are images.

    Raises:
        AgreedError: a reference was made otherwise, a file cannot be written, fewer than two samples can be used, too
            many cannot, or features are not finite; on every rank.
    """
    ranks.agreed(lambda: check_pair(*pair))
    protocol = _protocol(pair, data, network, segmenter, sampling)
    reference = ranks.agreed(lambda: checked_reference(files, protocol, network))
    sums, codes = GenerationSums(pair, sampling, network, segmenter), LikelihoodSums(pair.prior, sampling.config)

    def go() -> None:
        for batch in data.samples.batches(say):
            fields = coded(batch, data.encoder, sample_seeds(batch, 0))
            codes.add(fields)
            sums.add(batch, fields)

    ranks.agreed(go)
    samples = sum(ranks.all_gather_object(len(sums.numbers)))
    if samples < 2:
        raise ranks.AgreedError(
            f"{samples} of {data.samples.stream.samples} samples can be used, and a covariance of features needs 2; "
            "the log names what is wrong with the others"
        )
    real, made = sums.sets.real.moments(), sums.sets.made.moments()
    figures = distances(made, real if reference is None else reference.moments, "fid")
    warnings = few_on_either_side(samples, reference, network, "fid")
    protocol |= reference_protocol(files.reference, reference)
    if files.save is not None:
        save_reference(files.save, real, protocol)
    if sums.scores is not None:
        ranks.all_reduce_sum_(sums.scores.sums)
        figures["inception_score"] = sums.scores.score()
    figures |= _neighborhoods(sums, samples, warnings) | _labels(sums) | codes.figures()
    counted, left_out = protocol_of_samples(data.samples, samples)
    details = {"nll_by_position": codes.nll_by_position()}
    return Evaluation(figures, protocol | counted, warnings + left_out, details)


def _neighborhoods(sums: GenerationSums, samples: int, warnings: list[str]) -> dict[str, float]:
    """Precision and recall beside the real images of the same samples."""
    if samples <= NEIGHBORS:
        warnings.append(f"precision and recall need more than {NEIGHBORS} samples, and there are {samples}: left out")
        return {}
    both = sums.gathered()
    return ranks.broadcast_object({} if both is None else precision_recall(*both, NEIGHBORS)._asdict())


def _labels(sums: GenerationSums) -> dict[str, float]:
    if not len(sums.labels):
        return {}
    ranks.all_reduce_sum_(sums.labels)
    return {"mean_iou": confusion.mean_iou(sums.labels), "pixel_accuracy": confusion.pixel_accuracy(sums.labels)}


def _protocol(
    pair: SampledPair, data: PriorData, network: FeatureNetwork, segmenter: Segmenter | None, sampling: Sampling
) -> dict[str, Any]:
    said = likelihood_protocol(pair.prior, data, sampling.config)
    protocol = said | {
        "task": "generation, an image for each sample",
        "condition": ", ".join(pair.prior.model.condition.fields) or "none",
        "sampling": f"{said['sampling']}, seed {sampling.seed}",
        "rounding": ROUNDING,
        "inception_score": "of one split",
        "precision_recall": f"{NEIGHBORS} neighbors, beside the real images of the same samples",
    }
    return protocol | network.protocol() | ({} if segmenter is None else segmenter.protocol())
