"""What a prior is trained on: code shards of its tokenizer, or image shards that are encoded on line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...models.conditions import Condition
from ..checkpoint.loading import TokenizerRef, load_prior, load_tokenizer, tokenizer_ref
from ..data.batch_stream import BatchStream
from ..data.masks import MaskConfig
from ..distributed import ranks
from ..editing.scene import Guide, SceneEncoder, check_guide
from ..images.known_values import Check, checked, only_cells, only_labels
from ..shards.fields import LOCATION_FIELDS, PROVENANCE_KEYS
from .config import PriorRun
from .edit_encoder import EditEncoder
from .online_encoder import SOURCES, OnlineEncoder


class CodeSource(NamedTuple):
    """Where a prior's codes come from."""

    metadata: dict[str, Any]  # of the images' tokenizer
    condition_tokenizers: dict[str, str]  # digests of the conditions' tokenizers, by the field that they encode
    encoder: OnlineEncoder | EditEncoder | None  # None where shards hold the codes
    condition: tuple[str, ...]  # fields that the condition reads
    tokenizer: TokenizerRef | None = None  # of the images, for previews
    condition_refs: Mapping[str, TokenizerRef] = {}  # of the conditions, alike
    guide: str | None = None  # digest of the editor that guides this one

    @property
    def fields(self) -> tuple[str, ...]:
        """What a stream has to read."""
        if self.encoder is not None:
            return self.encoder.fields
        return ("codes", *(name for name in self.condition if name not in LOCATION_FIELDS))

    def checks(self, condition: Condition, window: tuple[int, int]) -> dict[str, Check]:
        """Of the numbers in samples: what the prior, or a tokenizer that encodes them on line, has no vector for.

        Args:
            condition: of the prior.
            window: of the prior, in codes.
        """
        known = condition.known
        if self.encoder is None:
            return checked({"codes": range(self.metadata["codes"]), **known})
        made = {name: field for name, field in SOURCES.items() if name in known}
        checks = checked({name: values for name, values in known.items() if name not in made})
        if "segmentation_codes" in made:
            labels = self.encoder.num_labels
            values = known["segmentation_codes"]
            checks["segmentation"] = only_cells(values, window) if labels is None else only_labels(labels)
        return checks


def resolve_tokenizers(run: PriorRun) -> dict[str, TokenizerRef]:
    """The tokenizers of a run by the field that they encode, the images' under "image".

    Rank 0 looks them up and reads every byte of them; the other ranks hear of it. Every rank must call this, once a
    job.

    Raises:
        ValueError: one is not there, or is no tokenizer. On every rank.
    """
    found: dict[str, TokenizerRef] = {}
    problem = ""
    if ranks.rank() == 0:
        try:
            for field, folder in {"image": run.tokenizer, **run.condition_tokenizers}.items():
                found[field] = tokenizer_ref(Path(folder))
        except (OSError, ValueError) as error:
            problem = str(error)
    found, problem = ranks.broadcast_object((found, problem))
    if problem:
        raise ValueError(problem)
    return found


def source(run: PriorRun, tokenizers: Mapping[str, TokenizerRef], condition: Condition) -> CodeSource:
    """Where a run's codes come from: tokenizers are loaded if images are encoded online. Every rank calls this.

    Args:
        tokenizers: of ``resolve_tokenizers``.

    Raises:
        ValueError: a tokenizer cannot be loaded, or its codes do not fit the prior.
    """
    image = tokenizers["image"]
    conditions = {field: ref for field, ref in tokenizers.items() if field != "image"}
    metadata = image.metadata
    for field, other in conditions.items():
        if other.metadata["factor"] != metadata["factor"]:
            raise ValueError(
                f"condition_tokenizers.{field} has factor {other.metadata['factor']} and the images' tokenizer "
                f"{metadata['factor']}; both must have a code for the same pixels"
            )
    encoder: OnlineEncoder | EditEncoder | None = None
    guide = None
    if run.masks is not None:
        _check_side(run, metadata["factor"])
        encoder, guide = _edit_encoder(run, run.masks, image, conditions)
    elif not run.train_data.holds_codes:
        _check_side(run, metadata["factor"])
        device = ranks.device()
        others = {field: load_tokenizer(other, device) for field, other in conditions.items()}
        encoder = OnlineEncoder(load_tokenizer(image, device), others, condition)
    digests = {field: other.metadata["digest"] for field, other in conditions.items()}
    return CodeSource(
        metadata, digests, encoder, condition.fields, image, conditions, None if guide is None else guide.digest
    )


def _edit_encoder(
    run: PriorRun, masks: MaskConfig, image: TokenizerRef, conditions: Mapping[str, TokenizerRef]
) -> tuple[EditEncoder, Guide | None]:
    """What encodes the images of an editor, and its guide.

    Raises:
        ValueError: the tokenizer knows no masks, or the guide learnt other codes or has another shape.
    """
    device = ranks.device()
    maps = load_tokenizer(conditions["segmentation"], device) if "segmentation" in conditions else None
    encode = SceneEncoder(load_tokenizer(image, device), maps)
    guide = None
    if run.guide is not None:
        loaded = load_prior(run.guide, device)
        wanted = {name: ref.metadata["digest"] for name, ref in conditions.items()}
        check_guide(loaded, image.metadata["digest"], wanted, run.model)
        guide = Guide(loaded, encode)
    return EditEncoder(encode, masks, guide, None if maps is None else maps.model.config.num_labels), guide


def completed(made: CodeSource, streams: Sequence[BatchStream], run: PriorRun) -> CodeSource:
    """The source with all tokenizers that made what the condition reads: code shards tell those that no run names.

    Raises:
        ValueError: code shards were made by other tokenizers, or one part of them otherwise than another; naming both.
    """
    if made.encoder is not None:
        return made
    named = {"": run.tokenizer} | run.condition_tokenizers
    wanted: Mapping[str, str] = {"": made.metadata["digest"]} | made.condition_tokenizers
    for stream in streams:
        for field, digest in wanted.items():
            said = _tokenizer_of(field, stream)
            if said != digest:
                raise ValueError(
                    f"the codes {f'of each {field} ' if field else ''}in {_place(stream)} were made "
                    f"by the tokenizer {str(said)[:12]}, and {named[field]} is {digest[:12]}; "
                    "encode the images again with this one, or name the other"
                )
    digests = {field: _agreed(field, streams) for name, field in SOURCES.items() if name in made.condition}
    return made._replace(
        condition_tokenizers=made.condition_tokenizers
        | {field: digest for field, digest in digests.items() if digest is not None}
    )


def _tokenizer_of(field: str, stream: BatchStream) -> str | None:
    """The digest of what made a field's codes in shards, of the images' for no field; None: they are labels."""
    said = stream.provenance if not field else stream.provenance.get(PROVENANCE_KEYS[field]) or {}
    digest: str | None = said.get("tokenizer")
    return digest


def _agreed(field: str, streams: Sequence[BatchStream]) -> str | None:
    """What all streams say made a field's codes."""
    digests = [_tokenizer_of(field, stream) for stream in streams]
    for stream, digest in zip(streams, digests, strict=True):
        if digest != digests[0]:
            raise ValueError(
                f"the codes of each {field} in {_place(streams[0])} were made by the tokenizer {str(digests[0])[:12]}, "
                f"and those in {_place(stream)} by {str(digest)[:12]}; encode both in the same way"
            )
    return digests[0]


def _place(stream: BatchStream) -> str:
    return ", ".join(shards for part in stream.config.sources for shards in part.shards)


def _check_side(run: PriorRun, factor: int) -> None:
    """The crops of images must have the prior's window of codes."""
    for name, data in (("data", run.train_data), ("val", run.val_data)):
        size = data.crop.output[0] if data.crop is not None and not data.holds_codes else 0
        if (size // factor, size // factor) != run.model.window or size % factor:
            raise ValueError(
                f"{name}.crop.size must be {run.model.window[0] * factor} pixels, {factor} for each of the "
                f"{run.model.window} codes of model.window, got {size}"
            )
