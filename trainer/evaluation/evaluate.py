"""From what is asked of an evaluation to its figures: networks and data are opened, and the right sums are made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...models.bounds import Natural, Positive, PositiveShare, Seed, Share, Weight, Width, check_ranges
from ...models.sampling import GuidanceConfig, SamplingConfig
from .. import config as configs
from ..checkpoint import model_files
from ..checkpoint.loading import (
    LoadedPrior,
    LoadedTokenizer,
    Precision,
    find_tokenizer,
    load_prior,
    load_tokenizer,
    resolve_weights,
)
from ..data.crops import CropConfig
from ..distributed import ranks
from ..frozen_networks.feature_networks import PUBLISHED
from ..frozen_networks.segmenters import load_segmenter
from ..jobs.run import Run
from ..jobs.run_dir import resolved_config
from . import prior_data
from .data import EvaluationConfig, crop_of_size, open_data
from .generation import SampledPair, Sampling, evaluate_generation
from .judges import Judges, JudgesConfig, load_judges
from .likelihood import evaluate_likelihood
from .made_images import MadeImages, evaluate_made_images, find_made_images
from .references import ReferenceFiles
from .results import Evaluation
from .tokenizers import checks_of, evaluate_tokenizer, field_of


@dataclass(frozen=True)
class EvaluationRequest:
    """All that a user may ask of an evaluation."""

    run: Path  # of a VQGAN or a prior, or an export; a folder of images
    shards: tuple[str, ...] | list[str]  # of images; of codes for a prior's likelihood alone
    size: Natural = 0  # pixels a side of what counts of each image, or of crops of a folder's; 0: as the run validates
    resize: Width | None = None  # shortest side, as taming-transformers resizes it; None: the largest square
    features: str = PUBLISHED  # a TorchScript file, inception or none
    inception_weights: Path | None = None
    lpips: Literal["vgg16", "random", "none"] = "vgg16"
    lpips_weights: Path | None = None
    reference: Path | None = None  # statistics to measure from; None: of the same samples
    save_statistics: Path | None = None
    batch: Width = 16
    num_workers: Natural = 0
    max_bad_fraction: Share = 0.01
    tokenizer: Path | None = None  # of a prior; None: those that its run names
    segmentation_tokenizer: Path | None = None
    depth_tokenizer: Path | None = None
    precision: Precision = "fp32"  # of a prior
    seed: Seed = 0
    temperature: Positive = 1.0
    top_k: Width | None = None
    top_p: PositiveShare | None = None
    greedy: bool = False
    guidance: Weight = 1.0
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    segmenter: Path | None = None  # a TorchScript file, for priors of maps
    seams: Width | None = None  # pixels from border to border in the images of a folder

    def __post_init__(self) -> None:
        check_ranges(self)


def evaluate(asked: EvaluationRequest, say: Callable[[str], None]) -> Evaluation:
    """The figures of a tokenizer's or a prior's run or export, or of a folder of images.

    Every rank must call this with the same request.

    Args:
        say: takes a line about the progress.

    Raises:
        AgreedError: something is wrong with what is asked, with the networks or with the data; on every rank.
    """
    config = EvaluationConfig(asked.batch, asked.num_workers, asked.max_bad_fraction)
    if images := ranks.agreed(lambda: find_made_images(asked.run)):
        return _of_images(asked, MadeImages(images, asked.seams), config, say)
    task = ranks.agreed(lambda: model_files.read_metadata(resolve_weights(asked.run))["task"])
    return _of_tokenizer(asked, config, say) if task == "vqgan" else _of_prior(asked, config, say)


def _of_images(
    asked: EvaluationRequest, images: MadeImages, config: EvaluationConfig, say: Callable[[str], None]
) -> Evaluation:
    if not asked.size or asked.resize is not None:
        raise ranks.AgreedError(
            f"{asked.run} is a folder of images, which are compared by crops at their own scale; give --size 256x256, "
            "and no --resize"
        )
    data = open_data(asked.shards, CropConfig(size=asked.size, max_upscale=1.0), ["image"], {}, config, covering=True)
    network = load_judges(_networks(asked, "none"), asked.size).features
    files = ReferenceFiles(asked.reference, asked.save_statistics)
    return evaluate_made_images(images, data, asked.size, network, files, say)


def _of_tokenizer(asked: EvaluationRequest, config: EvaluationConfig, say: Callable[[str], None]) -> Evaluation:
    given = ranks.agreed(lambda: crop_of_size(asked.size, asked.resize))
    crop = given or ranks.agreed(lambda: _run_of(asked, "how images are cut; give --size 256x256").val_data.crop)
    tokenizer = ranks.agreed(lambda: load_tokenizer(asked.run, ranks.device()))
    field = field_of(tokenizer)
    data = open_data(asked.shards, crop, [field], checks_of(tokenizer), config)
    judges = Judges() if field == "segmentation" else load_judges(_networks(asked, asked.lpips), crop.size)
    return evaluate_tokenizer(tokenizer, data, judges, ReferenceFiles(asked.reference, asked.save_statistics), say)


def _of_prior(asked: EvaluationRequest, config: EvaluationConfig, say: Callable[[str], None]) -> Evaluation:
    """Of its likelihood and, on images, of what it samples."""
    prior = ranks.agreed(lambda: load_prior(asked.run, ranks.device(), asked.precision))
    drawn = ranks.agreed(lambda: _drawn(asked))
    if ranks.agreed(lambda: prior_data.hold_codes(asked.shards)):
        return evaluate_likelihood(prior, prior_data.open_codes(prior, asked.shards, config), drawn, say)
    tokenizers = ranks.agreed(lambda: _tokenizers(asked, prior))
    tokenizer = tokenizers.pop("image")
    crop = ranks.agreed(lambda: crop_of_size(asked.size, asked.resize))
    data = prior_data.open_images(prior, tokenizer, tokenizers, asked.shards, crop, config)
    side = prior.model.window[0] * tokenizer.model.config.factor
    network = load_judges(_networks(asked, "none"), side).features
    if network is None:
        return evaluate_likelihood(prior, data, drawn, say)
    path = asked.segmenter
    segmenter = None if path is None else ranks.agreed(lambda: load_segmenter(path, side))
    files = ReferenceFiles(asked.reference, asked.save_statistics)
    pair, sampling = SampledPair(prior, tokenizer), Sampling(drawn, asked.seed)
    return evaluate_generation(pair, data, network, segmenter, sampling, files, say)


def _drawn(asked: EvaluationRequest) -> SamplingConfig:
    """How codes are drawn."""
    guidance = GuidanceConfig(asked.guidance, asked.guidance_schedule)
    return SamplingConfig(asked.temperature, asked.top_k, asked.top_p, asked.greedy, guidance)


def _networks(asked: EvaluationRequest, lpips: Literal["vgg16", "random", "none"]) -> JudgesConfig:
    return JudgesConfig(asked.features, asked.inception_weights, lpips, asked.lpips_weights)


def _tokenizers(asked: EvaluationRequest, prior: LoadedPrior) -> dict[str, LoadedTokenizer]:
    """The tokenizers of a prior by the field that they encode: those that are named, else those of its run."""
    wanted = {"image": prior.metadata["tokenizer"], **(prior.metadata.get("condition_tokenizers") or {})}
    named = {
        "image": asked.tokenizer,
        "segmentation": asked.segmentation_tokenizer,
        "depth": asked.depth_tokenizer,
    }
    found = {}
    for field, digest in wanted.items():
        place = named[field]
        if place is not None:
            found[field] = load_tokenizer(place, ranks.device())
            continue
        run = _run_of(asked, "its tokenizers; name them with --tokenizer and the like")
        names = {"image": run.tokenizer, **run.condition_tokenizers}
        found[field] = load_tokenizer(find_tokenizer(asked.run, names[field], digest), ranks.device())
    return found


def _run_of(asked: EvaluationRequest, missing: str) -> Any:
    """The resolved config of the run.

    Args:
        missing: what an export does not say.

    Raises:
        ValueError: it is an export.
    """
    file = resolved_config(asked.run)
    if not file.is_file():
        raise ValueError(f"{asked.run} is no run with a {file.name}, so it does not say {missing}")
    return configs.read(Run, file, saved=True)
