"""Every number of every config section refuses what it cannot be, in a sentence that names the field."""

import math
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest

from smalti.models.conditions import ConditionConfig
from smalti.models.sampling import SamplingConfig
from smalti.trainer import config as configs
from smalti.trainer.checkpoint.writer import RetentionPolicy
from smalti.trainer.jobs.run import Run
from smalti.trainer.prepare.encode import EncodeConfig
from smalti.trainer.prepare.pack import PackConfig
from smalti.trainer.sampling.image_files import DecodeConfig
from smalti.trainer.sampling.progress import SamplingJobConfig
from smalti.trainer.schema import to_mapping

HOSTILE = (-1, 0, 2**62, math.nan, math.inf, -math.inf)
ZERO, SEED = frozenset({0}), frozenset({0, 2**62})
LEGAL: dict[str, frozenset[float]] = {
    # A count of nothing, a weight of nothing, a chance of never: 0 says so.
    **dict.fromkeys(
        [
            "AdversarialConfig.disc_start", "AdversarialConfig.disc_only_steps", "AdversarialConfig.ramp_steps",
            "AdversarialConfig.disc_weight", "AdversarialConfig.r1_gamma", "LeCAMConfig.weight", "LeCAMConfig.decay",
            "CropConfig.flip", "TamingCropConfig.flip", "TamingCropConfig.resize", "CodeCropConfig.window",
            "DecodeConfig.halo", "EncodeConfig.halo", "EncodeConfig.low_res", "EncodeConfig.num_workers",
            "EncodeConfig.max_bad_fraction", "DataConfig.shuffle_window", "DataConfig.max_repeats",
            "DataConfig.shuffle_buffer", "PackConfig.side",
            "DataConfig.num_workers", "DataConfig.max_bad_fraction", "VQGANConfig.dropout", "VQGANConfig.norm_groups",
            "OptimizerConfig.betas", "OptimizerConfig.weight_decay", "OptimizerConfig.min_lr_ratio",
            "OptimizerConfig.warmup_steps", "PackConfig.val", "PackConfig.processes",
            "PackConfig.shard_bytes", "PackConfig.shard_samples",
            "GPTConfig.embedding_dropout", "GPTConfig.attention_dropout", "GPTConfig.residual_dropout",
            "GPTConfig.condition_dropout", "GPTConfig.label_smoothing", "NeighborhoodConfig.embedding_dropout",
            "NeighborhoodConfig.attention_dropout", "NeighborhoodConfig.residual_dropout",
            "NeighborhoodConfig.condition_dropout", "NeighborhoodConfig.label_smoothing", "AnnealingConfig.start",
            "PixelSNAILConfig.dropout", "PixelSNAILConfig.condition_dropout", "PixelSNAILConfig.label_smoothing",
            "PixelSNAILConfig.token_keep_prob",
            "VQGANLossConfig.pixel_weight", "PerceptualConfig.weight", "LogitConfig.weight", "EntropyConfig.weight",
            "EntropyConfig.per_sample_weight", "EntropyConfig.batch_weight", "GumbelConfig.kl_weight",
            "VQConfig.commitment_weight", "VQConfig.codebook_weight", "CosineConfig.commitment_weight",
            "CosineConfig.codebook_weight", "EMAConfig.commitment_weight", "EMAConfig.decay",
            "SimVQConfig.commitment_weight", "SimVQConfig.codebook_weight", "IBQConfig.codebook_term_weight",
            "IBQConfig.codebook_weight", "LFQConfig.commitment_weight", "GuidanceConfig.scale",
            "MonitorsConfig.freeze_above_accuracy", "MonitorsConfig.unfreeze_below_accuracy",
            "MonitorsConfig.max_clamped_fraction", "MonitorsConfig.min_codebook_usage", "VQGANRun.ema_decay",
            "PriorRun.ema_decay", "SamplingJobConfig.save_every_s", "SamplingJobConfig.preview_every_s",
            "GPTConfig.token_keep_prob", "NeighborhoodConfig.token_keep_prob", "GPTConfig.bidirectional_prefix",
            "MaskConfig.grow", "MaskConfig.boxes", "EditorConfig.picks", "EditorConfig.dropout",
        ],
        ZERO,
    ),
    **dict.fromkeys(
        [
            "VQGANRun.seed", "PriorRun.seed", "OrderConfig.seed", "EncodeConfig.seed", "PerceptualConfig.seed",
            "LogitConfig.seed", "ValSamplesConfig.seed",
        ],
        SEED,
    ),
    "CropConfig.scale": frozenset({math.inf}),  # as large as the image
}  # fmt: skip


class Field(NamedTuple):
    """A number of a section, or the numbers of a tuple."""

    section: type
    name: str
    is_tuple: bool

    def __str__(self) -> str:
        return f"{self.section.__name__}.{self.name}"


def members(hint: Any) -> tuple[Any, ...]:
    """The types a field may have, without their ranges."""
    if get_origin(hint) is Annotated:
        return members(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(each for member in get_args(hint) for each in members(member))
    return (hint,)


def sections(hint: Any, seen: list[type]) -> list[type]:
    """All dataclasses that a type leads to."""
    for member in members(hint):
        if is_dataclass(member) and isinstance(member, type) and member not in seen:
            seen.append(member)
            for inner in get_type_hints(member).values():
                sections(inner, seen)
        elif get_origin(member) in (tuple, dict):
            for inner in get_args(member):
                sections(inner, seen)
    return seen


SECTIONS: list[type] = []
for _root in (
    Run,
    ConditionConfig,
    SamplingConfig,
    DecodeConfig,
    EncodeConfig,
    SamplingJobConfig,
    PackConfig,
    RetentionPolicy,
):
    sections(_root, SECTIONS)


def numbers() -> Iterator[Field]:
    for section in SECTIONS:
        for name, hint in get_type_hints(section).items():
            if name not in {field.name for field in fields(section) if field.init}:
                continue
            for member in members(hint):
                if member in (int, float):
                    yield Field(section, name, False)
                elif get_origin(member) is tuple and {int, float} & set(get_args(member)):
                    yield Field(section, name, True)


def whole(section: type) -> dict[str, Any]:
    """Values with which a section can be made: its defaults, and small ones for what has none."""
    made: dict[str, Any] = {"CodeMapConfig": {}}.get(section.__name__, {})
    for field in fields(section):
        if field.default is MISSING and field.default_factory is MISSING:
            made[field.name] = NEEDED[field.name]
    return made


DATA: dict[str, Any] = {"shards": ["a"], "crop": {"kind": "patch", "size": 256}}
NEEDED: dict[str, Any] = {
    "run_dir": "run", "tokenizer": "run", "train_data": DATA, "val_data": DATA, "loop": {"max_steps": 1},
    "batch": {"global_batch_size": 4, "micro_batch_size": 2}, "global_batch_size": 4, "micro_batch_size": 2,
    "max_steps": 1, "learning_rate": 1e-4, "shards": ["a"],
    "generator_training": {"optimizer": {"learning_rate": 1e-4}}, "training": {"optimizer": {"learning_rate": 1e-4}},
    "optimizer": {"learning_rate": 1e-4}, "newest": 3, "metric": "nll",
}  # fmt: skip
EXTRA: dict[str, dict[str, Any]] = {
    "DataConfig": {"shards": ["a"]},
    "VQGANRun": {"loss": {"adversarial": None}},
    "CompositeConfig": {"conditions": [{"kind": "class"}, {"kind": "coordinates"}]},
}


def made_with(field: Field, value: Any) -> Any:
    raw = whole(field.section) | EXTRA.get(field.section.__name__, {})
    raw[field.name] = value
    return configs.from_mapping(field.section, raw)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_can_be_made_so_that_a_refusal_is_about_the_field(section: type):
    made: Any = configs.from_mapping(section, whole(section) | EXTRA.get(section.__name__, {}))
    assert to_mapping(made)


@pytest.mark.parametrize("field", numbers(), ids=str)
def test_what_a_number_cannot_be_is_refused_by_name(field: Field):
    for value in HOSTILE:
        if value in LEGAL.get(str(field), ()):
            continue
        tried: Any = value
        if field.is_tuple:
            usual = to_mapping(configs.from_mapping(
                field.section, whole(field.section) | EXTRA.get(field.section.__name__, {})
            ))[field.name]  # fmt: skip
            tried = [value, *usual[1:]]
        with pytest.raises(configs.ConfigError) as refused:
            made_with(field, tried)
        assert field.name in str(refused.value), (value, str(refused.value))


@pytest.mark.parametrize("name", sorted(LEGAL))
def test_the_table_of_what_is_legal_names_fields_that_there_are(name: str):
    assert name in {str(field) for field in numbers()}


def test_all_that_is_wrong_in_several_sections_is_said_at_once(tmp_path: Path):
    wrong = ["keep_last=0", "keep_every=0", "timeout_s=.inf", "model.embed_dim=-1", 'run_dir=""', "seed=-1"]
    with pytest.raises(configs.ConfigError) as refused:
        configs.read(Run, "demo_vqgan", wrong)
    said = "\n".join(refused.value.problems)
    for rule in (
        "keep_last must be at least 1, got 0", "keep_every must be at least 1, got 0", "timeout_s must be",
        "seed must be",
        "embed_dim must be at least 1, got -1", "run_dir must be a name that is not empty, got ''",
    ):  # fmt: skip
        assert rule in said


def test_python_cannot_make_what_a_file_cannot_say():
    for newest in (0, -1):
        with pytest.raises(ValueError, match="newest must be at least 1"):
            RetentionPolicy(newest)
