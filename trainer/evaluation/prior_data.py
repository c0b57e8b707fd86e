"""What a prior is evaluated on: code shards, or image shards that its tokenizers encode on the way."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..data.crops import CodeCropConfig, CropConfig, TamingCropConfig
from ..distributed import ranks
from ..prior.data import CodeSource
from ..prior.online_encoder import SOURCES, OnlineEncoder
from ..sampling.job import check_pair
from ..shards.fields import EXTENSIONS, PROVENANCE_KEYS
from ..shards.reader import ShardSet
from .data import EvaluationConfig, EvaluationData, open_data


class PriorData(NamedTuple):
    """The samples of a prior's evaluation, as one rank sees them."""

    samples: EvaluationData
    encoder: OnlineEncoder | None  # of shards of images; None where shards hold codes


def hold_codes(shards: Sequence[str]) -> bool:
    """Whether shards hold grids of codes, and not images.

    Raises:
        OSError, ValueError: there are no shards.
    """
    found = ShardSet.open(shards)
    filled = next((shard for shard, samples in enumerate(found.counts) if samples), None)
    return filled is not None and bool(set(EXTENSIONS["codes"]) & set(found.index(filled).extensions))


def open_codes(prior: LoadedPrior, shards: Sequence[str], config: EvaluationConfig) -> PriorData:
    """Code shards, in windows that cover each grid. Every rank must call this.

    Raises:
        AgreedError: they cannot be used, or were made by other tokenizers than the prior's.
    """
    source = CodeSource(prior.metadata, {}, None, prior.model.condition.fields)
    window = prior.model.window
    checks = source.checks(prior.model.condition, window)
    samples = open_data(shards, CodeCropConfig(window=window), source.fields, checks, config)
    ranks.agreed(lambda: _check_makers(prior, samples.stream.provenance))
    return PriorData(samples, None)


def open_images(
    prior: LoadedPrior,
    tokenizer: LoadedTokenizer,
    others: Mapping[str, LoadedTokenizer],
    shards: Sequence[str],
    crop: CropConfig | TamingCropConfig | None,
    config: EvaluationConfig,
) -> PriorData:
    """Image shards, cut to the prior's window and encoded on the way. Every rank must call this.

    Args:
        tokenizer: of the images.
        others: tokenizers of what the prior is conditioned on, by the field that they encode.
        crop: None for the largest square of each image.

    Raises:
        AgreedError: the images cannot be used, or a tokenizer is not the prior's.
    """
    rows, columns = (side * prior.metadata["factor"] for side in prior.model.window)
    cut = crop or CropConfig(size=rows, scale=(float("inf"), float("inf")))

    def check() -> OnlineEncoder:
        check_pair(prior, tokenizer)
        learnt = _learnt(prior)
        for field, other in others.items():
            if learnt.get(field) != other.metadata["digest"]:
                raise ValueError(
                    f"the prior learnt the {field} by the tokenizer {str(learnt.get(field))[:12]}, and this one is "
                    f"{other.metadata['digest'][:12]}; name that one"
                )
        if missing := sorted(set(learnt) - set(others)):
            raise ValueError(
                f"the prior learnt codes of each {missing[0]}; name their tokenizer: --{missing[0]}-tokenizer"
            )
        if not rows == columns == cut.size:
            raise ValueError(
                f"images must be cut to the prior's window, {rows}x{columns} pixels, got {cut.size}x{cut.size}"
                + (
                    "; such windows are evaluated on code shards"
                    if rows != columns
                    else f"; give --size {rows}x{columns}"
                )
            )
        return OnlineEncoder(tokenizer, others, prior.model.condition)

    encoder = ranks.agreed(check)
    source = CodeSource(prior.metadata, {}, encoder, prior.model.condition.fields)
    checks = source.checks(prior.model.condition, prior.model.window)
    return PriorData(open_data(shards, cut, source.fields, checks, config), encoder)


def _learnt(prior: LoadedPrior) -> dict[str, str]:
    """Digests of the tokenizers of what the prior is conditioned on, by the field that they encode."""
    return prior.metadata.get("condition_tokenizers") or {}


def _check_makers(prior: LoadedPrior, provenance: Mapping[str, Any]) -> None:
    """Makes sure that the codes are those which the prior knows."""
    wanted = {"": prior.metadata["tokenizer"], **_learnt(prior)}
    read = {SOURCES[name] for name in prior.model.condition.fields if name in SOURCES}
    for field, digest in wanted.items():
        said = provenance if not field else provenance.get(PROVENANCE_KEYS[field]) or {}
        if said.get("tokenizer") != digest and (not field or field in read):
            raise ValueError(
                f"the codes{f' of each {field}' if field else ''} were made by the tokenizer "
                f"{str(said.get('tokenizer'))[:12]}, and the prior learnt those of {digest[:12]}; encode the images "
                "again with that one"
            )
