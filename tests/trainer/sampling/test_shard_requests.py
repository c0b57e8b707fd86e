"""What is asked of a sample in shards is what is asked by files of the same contents."""

import numpy as np
import pytest
import torch
from fixtures.conditions import SEVERAL, SIDE, write_conditions
from fixtures.shards import encoded, photo
from fixtures.tokenizers import CODES, FACTOR

from smalti.models.conditions import ClassConfig, UnconditionalConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.vqgan.tiling import Tiling
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import LoadedPrior, load_tokenizer
from smalti.trainer.sampling import condition_files
from smalti.trainer.sampling.condition_fields import ConditionEncoder
from smalti.trainer.sampling.condition_files import ConditionInputs
from smalti.trainer.sampling.request import build_request
from smalti.trainer.sampling.shard_requests import ShardRequests
from smalti.trainer.shards.errors import SampleError
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

TILES = Tiling(16, 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_conditions(tmp_path_factory.mktemp("conditions"))


def prior_of(place, condition):
    digest = model_files.read_metadata(place / "of-depth")["digest"]
    network = GPTConfig(layers=1, heads=1, width=8, window=(2, 2)).build(CODES, condition).eval()
    return LoadedPrior(network, {"factor": FACTOR, "condition_tokenizers": {"depth": digest}})


def requests(place, shards, condition, size=None):
    prior, tokenizer = prior_of(place, condition), load_tokenizer(place / "tokenizer", "cpu")
    depth = {"depth": load_tokenizer(place / "of-depth", "cpu")}
    conditions = ConditionEncoder(prior, depth, TILES)
    return ShardRequests(ShardSet.open([str(shards)]), prior, tokenizer, conditions, size), conditions, tokenizer


@pytest.mark.parametrize("shards", ["images", "codes"])
def test_a_sample_asks_for_what_its_files_ask_for(place, shards):
    found, conditions, tokenizer = requests(place, place / shards, SEVERAL)
    assert len(found) == 2 and sorted(str(found.key(number)) for number in range(2)) == ["p0", "p1"]
    for number in range(2):
        sample = int(found.key(number).name[1:])
        names = ("segmentation", "depth", "low-resolution", "text", "objects")
        files = [next(place.glob(f"{name}-{sample}.*")) for name in names]
        values = condition_files.read(ConditionInputs(2 * sample, *files))
        by_files = build_request(tokenizer, conditions, values, (SIDE, SIDE))
        wanted = found.request(number)
        assert wanted.size == by_files.size and wanted.fields.keys() == by_files.fields.keys()
        for name, field in wanted.fields.items():
            torch.testing.assert_close(field, by_files.fields[name], msg=name)


def test_an_image_that_nothing_is_known_of_has_the_size_of_the_sample_or_the_one_asked_for(place):
    assert requests(place, place / "images", UnconditionalConfig())[0].request(0).size == (4, 4)
    assert requests(place, place / "images", UnconditionalConfig(), (24, 8))[0].request(0).size == (6, 2)
    with pytest.raises(ValueError, match="omit --size"):
        requests(place, place / "codes", UnconditionalConfig(), (24, 8))


def test_a_sample_of_a_class_that_the_prior_does_not_know_is_an_error_of_its_own(place):
    found = requests(place, place / "codes", ClassConfig(classes=2))[0]
    good, wrong = sorted(range(2), key=lambda number: found.key(number).name)
    assert found.request(good).fields["cls"].tolist() == [0]
    with pytest.raises(SampleError, match=r"p1 .* knows 2 numbers of cls, 0 to 1, got 2") as caught:
        found.request(wrong)
    assert caught.value.kind == "out of range"


def test_codes_of_conditions_by_another_tokenizer_are_refused(place):
    prior = prior_of(place, SEVERAL)
    prior.metadata["condition_tokenizers"]["depth"] = "0" * 64
    with pytest.raises(ValueError, match=r"learnt depth_codes by .*0000.* encode the images with that tokenizer"):
        ShardRequests(
            ShardSet.open([str(place / "codes")]),
            prior,
            load_tokenizer(place / "tokenizer", "cpu"),
            requests(place, place / "codes", SEVERAL)[1],
            None,
        )


def test_keys_lead_nowhere_and_none_is_there_twice(place, tmp_path):
    image = {"png": encoded(photo(16, 16), "PNG"), "cls": b"0"}
    for name, keys in (("twice", ("a", "b", "a")), ("up", ("../a", "b", "c"))):
        for number, key in enumerate(keys):
            with ShardWriter(tmp_path / name, f"x{number}", 1, {}) as writer:
                writer.write(key, image)
    with pytest.raises(ValueError, match="2 samples have the key 'a'"):
        requests(place, tmp_path / "twice", UnconditionalConfig())
    found = requests(place, tmp_path / "up", UnconditionalConfig())[0]
    with pytest.raises(SampleError, match="no path below a folder"):
        found.key(0)
    assert np.all([str(found.key(number)) in "bc" for number in (1, 2)])
