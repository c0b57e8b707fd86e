"""Images encoded online give what code shards hold."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.priors import prior_run, write_tokenizer
from fixtures.shards import write_images

from smalti.models.conditions import (
    ClassConfig,
    CodeMapConfig,
    CompositeConfig,
    CoordinatesConfig,
    LowResolutionConfig,
    UnconditionalConfig,
)
from smalti.models.priors.gpt import GPTConfig
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.data.crops import AnyCropConfig, CodeCropConfig, CropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.distributed import ranks
from smalti.trainer.distributed.engine import EngineConfig, NetworkConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig
from smalti.trainer.jobs.run import built, resolve_tokenizers
from smalti.trainer.prepare.encode import EncodeConfig, EncodeJob, encode
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.prior.online_encoder import OnlineEncoder
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.training.loop import BatchConfig, LoopConfig

CROP, WINDOW = CropConfig(size=16, flip=0.5), (4, 4)
CODES = CodeCropConfig(window=WINDOW)
MAP, SMALL = CodeMapConfig(vocab_size=256), LowResolutionConfig(pixels_per_code=2)
EVERYTHING = CompositeConfig(conditions=(ClassConfig(classes=32), MAP, SMALL, CoordinatesConfig(vocab_size=64)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Image shards, a tokenizer of images and one of maps, and what ``encode`` makes of them with each."""
    folder = tmp_path_factory.mktemp("online")
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "of maps", seed=1, num_labels=255)
    write_images(folder / "images", 24)
    of_maps = load_tokenizer(folder / "of maps", ranks.device())
    for name, others in (("codes", {}), ("tokenized", {"segmentation": of_maps})):
        source = ShardSet.open([str(folder / "images")])
        config = EncodeConfig(crop=CROP, seed=3, low_res=2)
        tokenizer = load_tokenizer(folder / "tokenizer", ranks.device())
        encode(EncodeJob(source, folder / name, tokenizer, others, config), print)
    return folder


def stream(folder: Path, crop: Any, fields: tuple[str, ...]) -> Stream:
    return Stream(DataConfig(shards=(str(folder),), crop=crop), fields, global_batch=8, micro_batch=8, seed=3)


@pytest.mark.parametrize("name", ["codes", "tokenized"])
def test_a_batch_encoded_on_line_is_the_batch_of_code_shards(prepared, name):
    others = {} if name == "codes" else {"segmentation": load_tokenizer(prepared / "of maps", ranks.device())}
    tokenizer = load_tokenizer(prepared / "tokenizer", ranks.device())
    encoder = OnlineEncoder(tokenizer, others, EVERYTHING.build(8, WINDOW))
    read = ("codes", "segmentation_codes", "low", "cls")
    cached = stream(prepared / name, CODES, read).train_batches()
    images = stream(prepared / "images", CROP, encoder.fields).train_batches()
    for _ in range(3):  # one epoch
        (made,), (given,) = next(cached), next(images)
        fields = encoder({name: value for name, value in given.items() if name != "key"}, ())
        assert made["key"] == given["key"]
        for field in (*read, "box", "source_size", "flip"):
            assert torch.equal(fields[field], made[field]), field
        assert fields["codes"].unique().numel() > 1 and fields["segmentation_codes"].unique().numel() > 1


def test_depth_needs_a_tokenizer_of_its_own(prepared):
    condition = CodeMapConfig(field="depth_codes", vocab_size=4).build(8, WINDOW)
    with pytest.raises(ValueError, match="name their tokenizer under condition_tokenizers: depth"):
        OnlineEncoder(load_tokenizer(prepared / "tokenizer", ranks.device()), {}, condition)


def run_of(folder: Path, shards: str, crop: AnyCropConfig, **changes: Any) -> PriorRun:
    settings: dict[str, Any] = {
        "loop": LoopConfig(max_steps=3),
        "batch": BatchConfig(global_batch_size=8, micro_batch_size=4),
        "model": GPTConfig(layers=1, heads=2, width=16, window=WINDOW, token_keep_prob=0.9),
        "condition": EVERYTHING,
        "training": NetworkConfig(optimizer=OptimizerConfig(learning_rate=1e-3), engine=EngineConfig()),
        "seed": 3,
        "previews": None,
    }
    return prior_run(folder, shards, crop, **(settings | changes))


def losses(folder: str) -> dict[str, Any]:
    """Of the three steps of an epoch, from codes and from images, and what the metadata say; runs on every rank."""
    place = Path(folder)
    of_maps = {"condition_tokenizers": {"segmentation": str(place / "of maps")}}
    left = {}
    for name, run in {
        "codes": run_of(place, "codes", CODES),
        "images": run_of(place, "images", CROP),
        "tokenized codes": run_of(place, "tokenized", CODES, **of_maps),
        "tokenized codes unnamed": run_of(place, "tokenized", CODES),
        "tokenized images": run_of(place, "images", CROP, **of_maps),
    }.items():
        torch.manual_seed(0)
        task, training, _ = built(run, resolve_tokenizers(run))
        steps = training.train_batches(0)
        left[name] = [task.step(next(steps), step)["nll"].item() for step in range(3)]
        left[f"tokenizers of {name}"] = task.metadata()["condition_tokenizers"]
    return left


def test_training_on_line_and_from_code_shards_is_the_same(prepared):
    (left,) = processes.run(losses, 1, prepared)
    assert left["codes"] == left["images"] and left["tokenized codes"] == left["tokenized images"]
    assert left["codes"] != left["tokenized codes"] == left["tokenized codes unnamed"]
    digest = model_files.read_metadata(prepared / "of maps")["digest"]
    for name in ("codes", "images", "tokenized codes", "tokenized images", "tokenized codes unnamed"):
        assert left[f"tokenizers of {name}"] == ({"segmentation": digest} if name.startswith("tokenized") else {}), name


@pytest.mark.parametrize(
    ("shards", "crop", "changes", "message"),
    [
        ("images", CropConfig(size=20), {}, "crop.size must be 16 pixels, 4 for each of the"),
        ("codes", CODES, {"tokenizer": "of maps"}, "were made by the tokenizer"),
        ("codes", CODES, {"condition_tokenizers": {"segmentation": "of maps"}}, "the codes of each segmentation in"),
    ],
)
def test_what_does_not_belong_together_is_refused(prepared, shards, crop, changes, message):
    tokenizers = {field: str(prepared / name) for field, name in changes.get("condition_tokenizers", {}).items()}
    changes = {name: str(prepared / value) for name, value in changes.items() if name == "tokenizer"}
    run = run_of(prepared, shards, crop, condition_tokenizers=tokenizers, condition=UnconditionalConfig(), **changes)
    with pytest.raises(ValueError, match=message):
        built(run, resolve_tokenizers(run))


def test_maps_that_became_codes_otherwise_than_the_validation_ones_are_refused(prepared):
    run = run_of(prepared, "tokenized", CODES, val_data=DataConfig(shards=(str(prepared / "codes"),), crop=CODES))
    with pytest.raises(
        ValueError, match=r"codes of each segmentation in .*tokenized were made by .*codes by None; encode"
    ):
        built(run, resolve_tokenizers(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_data": DataConfig(shards=("x",), crop=CROP)}, "must both be code shards"),
        ({"train_data": DataConfig(shards=("x",), crop=None)}, r"train_data.crop must be of kind codes|must both be"),
        (
            {"train_data": DataConfig(shards=("x",), crop=CodeCropConfig(window=(8, 8)))},
            "must be the prior's model.window",
        ),
        ({"condition_tokenizers": {"edges": "x"}}, "of the fields segmentation and depth, got edges"),
    ],
)
def test_runs_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run_of(Path("x"), "codes", CODES, **changes)
