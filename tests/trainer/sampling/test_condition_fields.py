"""What a prior's condition reads of an image, out of what a user knows of it."""

from pathlib import Path

import pytest
import torch
from fixtures.priors import CODES, write_tokenizer

from smalti.models.conditions import (
    CaptionConfig,
    ClassConfig,
    CodeMapConfig,
    CompositeConfig,
    ConditionConfig,
    ObjectsConfig,
    TextConfig,
)
from smalti.models.priors.gpt import GPTConfig
from smalti.models.vqgan.tiling import Tiling
from smalti.trainer.checkpoint.loading import LoadedPrior, load_tokenizer
from smalti.trainer.images.known_values import OutOfRangeError
from smalti.trainer.sampling.condition_fields import ConditionEncoder, ConditionValues, ObjectLayout, check_table


def prior_of(condition: ConditionConfig, **tokenizers: str) -> LoadedPrior:
    """A prior of windows of 2 x 2 codes, 4 pixels each."""
    network = GPTConfig(layers=1, heads=1, width=8, window=(2, 2)).build(CODES, condition).eval()
    return LoadedPrior(network, {"factor": 4, "condition_tokenizers": tokenizers})


def test_numbers_that_the_prior_has_no_vector_for_are_refused():
    for config, field, good, wrong in (
        (ClassConfig(classes=3), "cls", [0, 2], [[3], [-1]]),
        (CodeMapConfig(vocab_size=7), "segmentation_codes", [0, 6], [[0, 7], [-1, 3]]),
        (ObjectsConfig(classes=4), "object_classes", [-1, 3], [[4], [-2]]),
    ):
        condition = config.build(8, (2, 2))
        check_table(condition, field, torch.tensor(good))
        for values in wrong:
            with pytest.raises(ValueError, match=f"numbers of {field}, .* got -?\\d"):
                check_table(condition, field, torch.tensor(values))
        check_table(condition, "box", torch.tensor([99]))  # it is no number of a table


def test_a_map_with_labels_that_its_tokenizer_does_not_know_is_refused(tmp_path: Path):
    metadata = write_tokenizer(tmp_path / "maps", num_labels=7)
    maps = {"segmentation": load_tokenizer(tmp_path / "maps", "cpu")}
    prior = prior_of(CodeMapConfig(vocab_size=CODES), segmentation=metadata["digest"])
    conditions = ConditionEncoder(prior, maps, Tiling(4, 1))
    labels = torch.randint(0, 7, (16, 16), generator=torch.Generator().manual_seed(0))
    labels[0, :2] = torch.tensor([255, 65535])  # marks of no label
    made = conditions.fields(ConditionValues(segmentation=labels), (4, 4))
    assert made["segmentation_codes"].shape == (1, 4, 4)
    labels[3, 3] = 7
    with pytest.raises(OutOfRangeError, match="it holds 7, and the model knows 0 to 6"):
        conditions.fields(ConditionValues(segmentation=labels), (4, 4))


def test_a_layout_is_laid_over_the_image_and_filled_up_with_no_object():
    conditions = ConditionEncoder(prior_of(ObjectsConfig(objects=3, classes=5, grid=8)), {}, Tiling(4, 1))
    layout = ObjectLayout((10, 40), torch.tensor([4, 1]), torch.tensor([[0.0, 0, 10, 10], [20, 5, 40, 10]]))
    made = conditions.fields(ConditionValues(objects=layout), (2, 4))  # 8 x 16 pixels
    assert made["object_classes"].tolist() == [[4, 1, -1]]
    expected = torch.tensor([[[0.0, 0, 4, 8], [8, 4, 16, 8], [0, 0, 0, 0]]])
    torch.testing.assert_close(made["object_boxes"], expected)
    assert made["source_size"].tolist() == [[8, 16]] and conditions.grid(ConditionValues(objects=layout)) == (2, 10)
    for classes, said in (([5], "5 numbers of object_classes|6 numbers"), ([0, 1, 2, 3], "at most 3 objects, got 4")):
        many = ObjectLayout((8, 8), torch.tensor(classes), torch.tensor([[0.0, 0, 4, 4]]).repeat(len(classes), 1))
        with pytest.raises(ValueError, match=said):
            conditions.fields(ConditionValues(objects=many), (2, 2))


@pytest.mark.parametrize("config", [TextConfig(tokens=3, channels=8), CaptionConfig(tokens=3, channels=8)])
def test_a_text_of_the_shape_of_training_is_taken_and_another_refused(config: ConditionConfig):
    conditions = ConditionEncoder(prior_of(config), {}, Tiling(4, 1))
    text = torch.randn(3, 8)
    assert torch.equal(conditions.fields(ConditionValues(text=text), (2, 2))["text"], text[None])
    with pytest.raises(ValueError, match=r"texts of 3 tokens with 8 channels, got \(2, 8\)"):
        conditions.fields(ConditionValues(text=text[:2]), (2, 2))


def test_of_several_conditions_a_map_says_how_large_the_image_is():
    conditions = ConditionEncoder(
        prior_of(CompositeConfig(conditions=(CodeMapConfig(), ObjectsConfig()))), {}, Tiling(4, 1)
    )
    layout = ObjectLayout((8, 8), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    labels = torch.zeros(17, 23, dtype=torch.int64)
    assert conditions.grid(ConditionValues(segmentation=labels, objects=layout)) == (4, 5)
    assert conditions.grid(ConditionValues(label=1)) is None
