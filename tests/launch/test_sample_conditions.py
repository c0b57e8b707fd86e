"""Every kind of condition: a tiny prior is trained on it, and the command samples what it learnt from users' files."""

import typing

import numpy as np
import pytest
import torch
from fixtures.conditions import (
    CLASS,
    DEPTH,
    FEATURES,
    GRID,
    OBJECTS,
    SEGMENTATION,
    SEVERAL,
    SIDE,
    SMALL,
    TEXT,
    write_conditions,
)
from fixtures.pairs import CODES, FACTOR
from fixtures.shards import photo
from PIL import Image

from smalti.launch import sample
from smalti.models.conditions import (
    CaptionConfig,
    CompositeConfig,
    ConditionConfig,
    CoordinatesConfig,
    ObjectsConfig,
    UnconditionalConfig,
)
from smalti.models.pixel_range import from_levels
from smalti.models.priors.gpt import GPTConfig
from smalti.models.vqgan.tiling import Tiling
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.config import to_mapping
from smalti.trainer.data.crops import CodeCropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.sampling.condition_fields import ConditionEncoder, ConditionValues
from smalti.trainer.shards.fields import LOCATION_FIELDS

KINDS = {
    "unconditional": (UnconditionalConfig(), []),
    "class": (CLASS, ["class"]),
    "segmentation": (SEGMENTATION, ["segmentation"]),
    "depth": (DEPTH, ["depth"]),
    "depth-npy": (DEPTH, ["depth-npy"]),
    "low resolution": (SMALL, ["low-resolution"]),
    "text": (TEXT, ["text"]),
    "caption": (CaptionConfig(tokens=3, channels=5), ["text"]),
    "objects": (OBJECTS, ["objects"]),
    "centers": (ObjectsConfig("objects", "center", objects=4, classes=6, grid=8), ["objects"]),
    "coordinates": (CoordinatesConfig(vocab_size=20), []),
    "coordinate features": (FEATURES, []),
    "several": (
        SEVERAL,
        ["class", "segmentation", "depth", "low-resolution", "text", "objects"],
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_conditions(tmp_path_factory.mktemp("conditions"))


def trained(place, config, samples):
    """A prior that has learnt some samples of the code shards by heart, in a folder; and their codes."""
    torch.manual_seed(0)
    network = GPTConfig(layers=1, heads=2, width=32, window=GRID)
    prior = network.build(CODES, config)
    read = ("codes", *(name for name in prior.condition.fields if name not in LOCATION_FIELDS))
    data = DataConfig(shards=(str(place / "codes"),), crop=CodeCropConfig(window=GRID))
    (batch,) = Stream(data, read, global_batch=2, micro_batch=2).eval_batches(2)
    order = [batch["key"].index(f"p{number}") for number in range(samples)]
    fields = {name: batch[name][order] for name in ("codes", *prior.condition.fields)}
    if "low" in fields:
        fields["low"] = from_levels(fields["low"])
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(300):
        loss = prior(fields["codes"], fields, fields["codes"]).loss
        if (loss < 0.3).all():  # every code is the likeliest by far
            break
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    else:
        pytest.fail("the prior has not learnt its samples")
    digests = {name: model_files.read_metadata(place / name)["digest"] for name in ("tokenizer", "of-depth")}
    metadata = {
        "task": "prior", "model": to_mapping(network), "condition": to_mapping(config), "codes": CODES,
        "factor": FACTOR, "tokenizer": digests["tokenizer"], "condition_tokenizers": {"depth": digests["of-depth"]},
    }  # fmt: skip
    folder = place / f"prior-{len(list(place.glob('prior-*')))}"
    folder.mkdir()
    model_files.write(folder, prior.state_dict(), metadata)
    return folder, fields["codes"]


def options(place, names, number):
    """What a user types for an image."""
    said = []
    for name in names:
        file = next(place.glob(f"{name}-{number}.*"), None)
        said += [f"--{name.removesuffix('-npy')}", 2 * number if name == "class" else file]
        said += ["--depth-tokenizer", place / "of-depth"] if name.startswith("depth") else []
    return said if "low-resolution" in names or "segmentation" in names else [*said, "--size", f"{SIDE}x{SIDE}"]


def asked(place, prior, out, *more):
    return sample.main([str(part) for part in (prior, place / "tokenizer", "--out", out, *more)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_condition_is_sampled_from_a_users_files_as_it_was_trained(kind, place, tmp_path, capsys):
    config, names = KINDS[kind]
    samples = 2 if names else 1  # what says nothing of an image tells none from another
    prior, codes = trained(place, config, samples)
    tokenizer = load_tokenizer(place / "tokenizer", "cpu")
    for number in range(samples):
        out = tmp_path / str(number)
        said = asked(place, prior, out, "--greedy", "--decode", "whole", *options(place, names, number))
        assert said == 0, capsys.readouterr().err
        (file,) = out.glob("*.png")
        expected = (tokenizer.decode(codes[number : number + 1])[0] + 1) * 127.5
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image), expected.round().byte().permute(1, 2, 0).numpy()), (kind, number)


def test_no_kind_of_condition_is_missing_here():
    assert {type(config) for config, _ in KINDS.values()} >= set(typing.get_args(ConditionConfig))


def test_maps_depths_and_small_images_of_other_sizes_are_laid_over_the_image(place):
    config = CompositeConfig(conditions=(DEPTH, SMALL))
    prior = load_prior(trained(place, config, 1)[0], "cpu")
    conditions = ConditionEncoder(prior, {"depth": load_tokenizer(place / "of-depth", "cpu")}, Tiling(16, 2))
    depth = torch.rand(16, 24, generator=torch.Generator().manual_seed(0))
    image = photo(16, 24)
    plain = conditions.fields(ConditionValues(depth=depth, low_resolution=image), (8, 12))
    twice = depth.repeat_interleave(3, 0).repeat_interleave(3, 1)
    larger = conditions.fields(ConditionValues(depth=twice, low_resolution=image), (8, 12))
    assert torch.equal(plain["depth_codes"], larger["depth_codes"]) and plain["depth_codes"].shape == (1, 8, 12)
    assert torch.equal(plain["low"][0], torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("depth", [], "this prior samples what a depth map says; give one with --depth"),
        ("low resolution", [], "samples a small image anew; give it with --low-resolution"),
        ("text", [], "give its embeddings with --text"),
        ("objects", [], "give them with --objects"),
        ("depth", ["--depth", "depth-0.png"], "and --depth-tokenizer is missing; name the folder of that one"),
        ("depth", ["--depth", "depth-0.png", "--depth-tokenizer", "tokenizer"], "and --depth-tokenizer is "),
        ("unconditional", ["--text", "text-0.npy"], "this prior reads nothing; omit --text"),
        ("unconditional", ["--depth-tokenizer", "of-depth"], "omit --depth-tokenizer"),
        ("text", ["--text", "depth-npy-0.npy"], "texts of 3 tokens with 5 channels, got (16, 16)"),
        ("text", ["--text", "objects-0.json"], "objects-0.json cannot be used"),
        ("objects", ["--objects", "text-0.npy"], "text-0.npy cannot be used"),
        ("low resolution", ["--low-resolution", "nowhere.png"], "nowhere.png cannot be used"),
    ],
)
def test_what_does_not_fit_the_prior_is_refused(kind, change, said, place, tmp_path, capsys, monkeypatch):
    config, _ = KINDS[kind]
    prior, _ = trained(place, config, 1)
    monkeypatch.chdir(place)
    assert asked(place, prior, tmp_path, "--size", "16x16", *change) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_prior_that_does_not_say_what_made_its_depth_codes_is_left_to_python(place, tmp_path, capsys):
    prior, _ = trained(place, DEPTH, 1)
    metadata = model_files.read_metadata(prior) | {"condition_tokenizers": {}}
    weights = model_files.read(prior, metadata)
    (tmp_path / "other").mkdir()
    model_files.write(tmp_path / "other", weights, metadata)
    depth = ["--depth", place / "depth-0.png", "--depth-tokenizer", place / "of-depth"]
    assert asked(place, tmp_path / "other", tmp_path / "out", *depth) == 2
    assert "does not say by which tokenizer its depths became codes" in capsys.readouterr().err
