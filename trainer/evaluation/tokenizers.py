"""How well a tokenizer rebuilds a data set, and how it uses its codes.

Shapes: B samples, D channels, H rows, W columns, (h, w) their grid of codes, K codes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...models.metrics import confusion
from ...models.metrics.similarity import SIGMA, WINDOW, ssim
from ...models.pixel_range import to_levels
from ...models.quantizers import perplexity, usage
from ...models.quantizers.base import count
from ..checkpoint.loading import LoadedTokenizer
from ..data.collate import Batch
from ..data.inputs import Field, target
from ..distributed import ranks
from ..frozen_networks.image_sets import ComparedSets, distances
from ..images.known_values import Check, only_labels
from ..training.color_maps import three_channels
from ..training.evaluation import MetricSums
from ..vqgan.figures import add_figures
from .data import EvaluationData, protocol_of_samples
from .judges import Judges
from .references import (
    ROUNDING,
    ReferenceFiles,
    checked_reference,
    few_on_either_side,
    reference_protocol,
    save_reference,
)
from .results import Evaluation


def field_of(tokenizer: LoadedTokenizer) -> Field:
    """What a tokenizer encodes."""
    config = tokenizer.model.config
    if config.num_labels is not None:
        return "segmentation"
    return "depth" if config.in_channels == 1 else "image"


def checks_of(tokenizer: LoadedTokenizer) -> dict[str, Check]:
    """Of the numbers in samples: a tokenizer of maps knows so many labels."""
    labels = tokenizer.model.config.num_labels
    return {} if labels is None else {"segmentation": only_labels(labels)}


class ReconstructionSums:
    """Sums over this rank's samples."""

    def __init__(self, tokenizer: LoadedTokenizer, judges: Judges) -> None:
        self.field = field_of(tokenizer)
        self.tokenizer, self.judges = tokenizer, judges
        self.means = MetricSums()
        self.samples = 0
        device, labels = ranks.device(), tokenizer.model.config.num_labels or 0
        self.counts = torch.zeros(tokenizer.model.config.codebook_size, dtype=torch.float64, device=device)
        self.labels = torch.zeros(labels, labels, dtype=torch.int64, device=device)
        self.sets = None if judges.features is None else ComparedSets(judges.features)

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Rebuild a batch from its codes alone and take in how that went."""
        real = target(batch, self.field)
        codes = self.tokenizer.model.encode(real).indices
        rebuilt = self.tokenizer.model.decode_codes(codes).float()
        self.samples += len(real)
        self.counts += count(codes, len(self.counts))
        add_figures(self.means, self.field, real, rebuilt)
        if self.field == "segmentation":
            self.labels += confusion.confusion(real, rebuilt.argmax(1), len(self.labels))
        else:
            self._add_images(three_channels(real), three_channels(rebuilt), [str(key) for key in batch["key"]])

    def _add_images(self, real: Tensor, rebuilt: Tensor, keys: list[str]) -> None:
        levels = to_levels(real), to_levels(rebuilt)
        if min(real.shape[-2:]) >= WINDOW:
            self.means.add("ssim", ssim(*levels))
        if self.judges.lpips is not None:
            self.means.add("lpips", self.judges.lpips(*(each / 127.5 - 1 for each in levels)))
        if self.sets is not None:
            self.sets.add(levels[0].byte(), levels[1].byte(), keys)


def evaluate_tokenizer(
    tokenizer: LoadedTokenizer,
    data: EvaluationData,
    judges: Judges,
    files: ReferenceFiles,
    say: Callable[[str], None],
) -> Evaluation:
    """Rebuild every sample once, over all ranks. Every rank must call this with its own part of the data.

    Args:
        tokenizer: in fp32.
        say: takes a line about the progress.

    Raises:
        AgreedError: a reference was made otherwise, a file cannot be written, no sample can be used (for rFID, fewer
            than two), too many cannot, or features are not finite; on every rank.
    """
    sums, network = ReconstructionSums(tokenizer, judges), judges.features
    protocol = _protocol(tokenizer, data, judges, sums.field)
    reference = None
    if network is not None:
        reference = ranks.agreed(lambda: checked_reference(files, protocol, network))

    def go() -> None:
        for batch in data.batches(say):
            sums.add(batch)

    ranks.agreed(go)
    samples = sum(ranks.all_gather_object(sums.samples))
    if samples < (1 if network is None else 2):
        raise ranks.AgreedError(
            f"{samples} of {data.stream.samples} samples can be used, and a covariance of features needs 2; the log "
            "names what is wrong with the others"
        )
    figures: dict[str, float] = {}
    warnings: list[str] = []
    if network is not None and sums.sets is not None:
        real, rebuilt = sums.sets.real.moments(), sums.sets.made.moments()
        figures |= distances(rebuilt, real if reference is None else reference.moments, "rfid")
        warnings += few_on_either_side(samples, reference, network, "rfid")
        protocol |= reference_protocol(files.reference, reference)
        if files.save is not None:
            save_reference(files.save, real, protocol)
    figures |= sums.means.means() | _maps(sums) | _codes(sums)
    counted, left_out = protocol_of_samples(data, samples)
    return Evaluation(figures, protocol | counted, warnings + left_out)


def _maps(sums: ReconstructionSums) -> dict[str, float]:
    if not len(sums.labels):
        return {}
    ranks.all_reduce_sum_(sums.labels)
    return {"mean_iou": confusion.mean_iou(sums.labels)}


def _codes(sums: ReconstructionSums) -> dict[str, float]:
    """How the codes are used, and what an image costs: with codes of one length, and coded by their entropy."""
    ranks.all_reduce_sum_(sums.counts)
    used = perplexity(sums.counts).item()
    cell = sums.tokenizer.model.config.factor**2
    fixed, entropy = math.log2(len(sums.counts)), math.log2(used)
    return {
        "codebook_usage": usage(sums.counts).item(),
        "codebook_perplexity": used,
        "effective_bits_per_code": entropy,
        "bits_per_pixel": fixed / cell,
        "effective_bits_per_pixel": entropy / cell,
    }


def _protocol(tokenizer: LoadedTokenizer, data: EvaluationData, judges: Judges, field: Field) -> dict[str, Any]:
    protocol = {"task": f"reconstruction of each {field}", "weights": tokenizer.metadata["digest"], **data.protocol()}
    protocol |= {"batch": data.config.batch, "precision": "fp32", "torch": torch.__version__}
    if field == "segmentation":
        return protocol
    protocol |= {
        "rounding": ROUNDING,
        "psnr": "mean over images, RGB, peak 255",
        "ssim": f"Gaussian {WINDOW}x{WINDOW}, sigma {SIGMA}, no padding, RGB, range 255",
    }
    if judges.lpips is not None:
        protocol["lpips"] = f"trunk {judges.lpips_trunk}, heads of lpips 0.1"
    return protocol | ({} if judges.features is None else judges.features.protocol())
