"""Every condition fits its window, moves with it, and has tables of its own."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from smalti.models import conditions
from smalti.models.conditions import (
    WHOLE_IMAGE,
    CaptionConfig,
    ClassConfig,
    CodeMapConfig,
    CompositeConfig,
    CoordinateFeaturesConfig,
    CoordinatesConfig,
    CropLocation,
    LowResolutionConfig,
    ObjectsConfig,
    TextConfig,
    UnconditionalConfig,
)
from smalti.models.conditions.low_resolution import shrink
from smalti.models.priors.gpt import GPTConfig
from smalti.models.sampling import GridRequest, SamplingConfig, sample

WINDOW = (2, 3)
SINGLE = [
    UnconditionalConfig(),
    ClassConfig(classes=4),
    TextConfig(tokens=3, channels=5),
    CaptionConfig(tokens=3, channels=5),
    CodeMapConfig(vocab_size=7),
    LowResolutionConfig(pixels_per_code=2),
    CoordinatesConfig(vocab_size=50),
    CoordinateFeaturesConfig(frequencies=3),
    ObjectsConfig(objects=2, classes=5, grid=8),
    ObjectsConfig(representation="center", objects=2, classes=5, grid=8, only_in_crop=True),
]
SEVERAL = CompositeConfig(
    conditions=(ClassConfig(classes=4), CodeMapConfig(vocab_size=7), CodeMapConfig(field="depth_codes", vocab_size=6))
)
EVERY = [*SINGLE, SEVERAL]


def name(config):
    return config.kind + str(getattr(config, "by", ""))


def fields_of(batch, size=WINDOW, seed=0):
    """Every field that any condition reads, for crops of ``size`` codes of 16 pixels, anywhere in their sources."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = size
    left, top = (torch.randint(0, 40, (batch,), generator=draw).float() for _ in range(2))
    box = torch.stack((left, top, left + 16 * columns, top + 16 * rows), dim=1)
    corners = torch.rand(batch, 2, 4, generator=draw) * 50
    return {
        "cls": torch.randint(4, (batch,), generator=draw),
        "text": torch.randn(batch, 3, 5, generator=draw),
        "segmentation_codes": torch.randint(7, (batch, *size), generator=draw),
        "depth_codes": torch.randint(6, (batch, *size), generator=draw),
        "low": torch.rand(batch, 3, 2 * rows, 2 * columns, generator=draw) * 2 - 1,
        "box": box,
        "source_size": torch.tensor([[16.0 * rows + 50, 16.0 * columns + 60]]).expand(batch, 2),
        "flip": torch.randint(2, (batch,), generator=draw).bool(),
        "object_classes": torch.randint(-1, 5, (batch, 2), generator=draw),
        "object_boxes": torch.cat((corners[..., :2], corners[..., :2] + corners[..., 2:]), dim=-1),
    }


def built(config, width=8):
    torch.manual_seed(0)
    condition = config.build(width, WINDOW)
    for parameter in condition.parameters():
        torch.nn.init.normal_(parameter)
    return condition


def test_every_kind_of_the_union_is_tested_here():
    assert {type(config) for config in SINGLE} == set(get_args(conditions.SingleConditionConfig))
    kinds = [type(config).kind for config in EVERY]
    assert len(set(kinds)) == len(kinds) - 1  # objects come twice


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_the_prefix_has_the_promised_shape_and_reads_only_the_promised_fields(config):
    condition = built(config)
    fields = fields_of(3)
    prefix = condition({field: fields[field] for field in condition.fields}, 3)
    assert prefix.shape == (3, condition.length, 8)
    assert condition.cells().shape == (condition.length, 2)
    for field in condition.fields:
        with pytest.raises(KeyError, match=field):
            condition({other: fields[other] for other in condition.fields if other != field}, 3)


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_a_sample_has_its_own_prefix_and_a_dropped_one_the_absent(config):
    condition = built(config)
    fields = fields_of(3)
    whole = condition(fields, 3)
    alone = condition({field: value[1:2] for field, value in fields.items()}, 1)
    torch.testing.assert_close(alone[0], whole[1])
    mixed = condition(fields, 3, torch.tensor([False, True, False]))
    assert torch.equal(mixed[[0, 2]], whole[[0, 2]])
    other = condition(fields_of(3, seed=5), 3, torch.tensor([True, True, True]))
    assert torch.equal(mixed[1], other[0]) and not torch.equal(mixed[1], whole[1])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("config", EVERY, ids=name)
def test_a_cut_equals_the_crop_taken_there(config, flip):
    """Fields of an image of 5 x 7 codes, cut by the condition, against fields of the crop made by hand."""
    condition, size = built(config), (5, 7)
    fields = fields_of(2, size) | {"flip": torch.full((2,), flip)}
    for top, left in ((0, 0), (3, 4), (1, 2)):
        cut = condition(condition.cut(fields, CropLocation(top, left, size)), 2)
        x = 7 - left - 3 if flip else left  # in the source, columns run the other way
        corner = torch.stack((fields["box"][:, 0] + 16 * x, fields["box"][:, 1] + 16 * top), dim=1)
        by_hand = fields | {
            "segmentation_codes": fields["segmentation_codes"][:, top : top + 2, left : left + 3],
            "depth_codes": fields["depth_codes"][:, top : top + 2, left : left + 3],
            "low": fields["low"][:, :, 2 * top : 2 * top + 4, 2 * left : 2 * left + 6],
            "box": torch.cat((corner, corner + torch.tensor([48.0, 32.0])), dim=1),
        }
        torch.testing.assert_close(cut, condition(by_hand, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config", [c for c in EVERY if c.kind not in ("unconditional", "class", "text", "objects")], ids=name
)
def test_tokens_that_stand_somewhere_stand_where_they_look(config):
    """Moving a window by one column moves the tokens of the cells by one column."""
    condition, size = built(config), (2, 4)
    fields = fields_of(1, size) | {"flip": torch.zeros(1, dtype=torch.bool)}
    tokens = [condition(condition.cut(fields, CropLocation(0, left, size)), 1)[0] for left in (0, 1)]
    cells = condition.cells().tolist()
    for number, (row, column) in enumerate(cells):
        if [row, column] != [WHOLE_IMAGE, WHOLE_IMAGE] and column > 0:
            before = next(n for n in range(number) if cells[n] == [row, column - 1] and number - n <= 1)
            torch.testing.assert_close(tokens[1][before], tokens[0][number], rtol=1e-4, atol=1e-4)


def test_coordinates_are_the_references_pooled_raster_numbers():
    """CoordStage: the raster number of every pixel over their count, averaged over each cell, times n, rounded."""
    for height, width in ((32, 48), (64, 80)):
        raster = torch.arange(height * width, dtype=torch.float64).view(1, 1, height, width) / (height * width)
        pooled = F.avg_pool2d(raster, 16)[0, 0]
        condition = CoordinatesConfig(vocab_size=1000).build(4, (height // 16, width // 16))
        whole = {
            "box": torch.tensor([[0.0, 0.0, width, height]]),
            "source_size": torch.tensor([[float(height), float(width)]]),
            "flip": torch.tensor([False]),
        }
        expected = (pooled * 1000).round().long().flatten()
        assert condition.codes(whole)[0].tolist() == expected.tolist()
        mirrored = condition.codes(whole | {"flip": torch.tensor([True])})[0]
        assert mirrored.view_as(pooled).flip(1).flatten().tolist() == expected.tolist()


def test_boxes_become_their_corners_on_the_grid():
    condition = built(ObjectsConfig(objects=2, classes=5, grid=11))
    fields = {
        "object_classes": torch.tensor([[3, -1]]),
        "object_boxes": torch.tensor([[[10.0, 40.0, 50.0, 80.0], [0.0, 0.0, 0.0, 0.0]]]),
        "box": torch.tensor([[0.0, 0.0, 100.0, 100.0]]),
        "source_size": torch.tensor([[100.0, 100.0]]),
        "flip": torch.tensor([False]),
    }
    tokens = condition(fields, 1)[0]
    classes, places = condition.classes.weight, condition.places.weight
    none = [classes[5], places[121], places[121]]
    expected = [classes[3], places[4 * 11 + 1], places[8 * 11 + 5], *none, places[0], places[120]]
    torch.testing.assert_close(tokens, torch.stack(expected))
    mirrored = condition(fields | {"flip": torch.tensor([True])}, 1)[0]
    torch.testing.assert_close(mirrored[1:3], torch.stack((places[4 * 11 + 5], places[8 * 11 + 9])))


def test_objects_that_a_crop_does_not_meet_are_left_out_and_the_others_close_up():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [40, 40, 90, 90], [20, 0, 30, 50], [0, 0, 0, 0], [30, 30, 60, 60]]])
    fields = {
        "object_classes": torch.tensor([[1, 2, 3, -1, 4]]), "object_boxes": boxes, "flip": torch.tensor([False]),
        "box": torch.tensor([[30.0, 20.0, 60.0, 50.0]]), "source_size": torch.tensor([[100.0, 100.0]]),
    }  # fmt: skip
    tokens = built(ObjectsConfig(objects=5, classes=5, grid=11, only_in_crop=True))(fields, 1)
    left = fields | {  # the third touches the crop's left edge, and shares no area with it
        "object_classes": torch.tensor([[2, 4, -1, -1, -1]]), "object_boxes": boxes[:, [1, 4, 0, 2, 3]],
    }  # fmt: skip
    torch.testing.assert_close(tokens, built(ObjectsConfig(objects=5, classes=5, grid=11))(left, 1))
    assert not torch.equal(tokens, built(ObjectsConfig(objects=5, classes=5, grid=11))(fields, 1))


def test_shuffled_objects_keep_their_boxes_and_belong_to_the_samples_seed():
    fields = {
        "object_classes": torch.arange(6).expand(3, 6), "object_boxes": torch.arange(6.0)[:, None].expand(3, 6, 4),
    }  # fmt: skip
    config = ObjectsConfig(objects=6, classes=6, shuffle=True)
    several = CompositeConfig(conditions=(ClassConfig(classes=4), config))
    for condition in (built(config), built(several)):
        shuffled = condition.for_training(fields, [7, 8, 9])
        kinds = shuffled["object_classes"]
        assert [sorted(row) for row in kinds.tolist()] == [list(range(6))] * 3 and len(kinds.unique(dim=0)) > 1
        assert torch.equal(shuffled["object_boxes"][..., 0].long(), kinds)
        alone = {name: value[1:2] for name, value in fields.items()}
        assert torch.equal(condition.for_training(alone, [8])["object_classes"], kinds[1:2])
    assert built(ObjectsConfig(objects=6, classes=6)).for_training(fields, [7, 8, 9]) is fields


def test_the_published_scene_has_92_tokens():
    assert ObjectsConfig(objects=30).build(4, (16, 16)).length == 92
    assert ObjectsConfig(representation="center", objects=30).build(4, (16, 16)).length == 62


def test_unused_tokens_of_a_text_are_told_apart_from_words():
    condition = built(TextConfig(tokens=3, channels=5))
    text = torch.randn(1, 3, 5)
    text[:, 2] = 0
    assert torch.equal(condition({"text": text}, 1)[0, 2], condition.unused)


def test_unused_tokens_of_a_caption_are_hidden_also_beside_other_conditions():
    text = torch.randn(2, 3, 5)
    text[0, :2] = 0
    hidden = built(CaptionConfig(tokens=3, channels=5)).hidden({"text": text})
    assert hidden.tolist() == [[True, True, False], [False, False, False]]
    both = CompositeConfig(conditions=(ClassConfig(classes=4), CaptionConfig(tokens=3, channels=5)))
    fields = {"text": text, "cls": torch.tensor([0, 1])}
    assert built(both).hidden(fields).tolist() == [[False, True, True, False], [False] * 4]


def test_shrinking_is_the_mean_of_each_area():
    images = torch.rand(2, 3, 8, 12)
    expected = images.view(2, 3, 2, 4, 3, 4).mean((3, 5))
    torch.testing.assert_close(shrink(images, (2, 3)), expected)


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_every_kind_learns_a_tiny_set_and_samples_it_back(config):
    """Two images that the condition tells apart; a greedy sample of each gives it back."""
    torch.manual_seed(0)
    window = WINDOW
    known = config.kind != "unconditional"
    fields = fields_of(2, window)
    if "flip" in fields:
        fields["flip"] = torch.tensor([False, True])
    images = torch.randint(9, (2, *window)) if known else torch.randint(9, (1, *window)).expand(2, -1, -1)
    prior = GPTConfig(layers=1, heads=2, width=32, window=window).build(9, config)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=2e-2, weight_decay=0.0)
    for _ in range(50):
        loss = prior(images, fields, images).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    sampled = sample(GridRequest(prior.eval(), fields, window, (0, 1), 0, SamplingConfig(greedy=True))).codes
    assert torch.equal(sampled, images)


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_no_token_of_a_condition_shares_a_vector_with_a_code(config):
    prior = GPTConfig(layers=1, heads=1, width=8, window=WINDOW).build(9, config)
    own = {parameter.data_ptr() for parameter in prior.condition.parameters()}
    assert prior.tok_emb.weight.data_ptr() not in own and prior.head.weight.data_ptr() not in own


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        (
            CodeMapConfig(vocab_size=7),
            "segmentation_codes",
            torch.zeros(1, 3, 3, dtype=torch.int64),
            r"window of \(2, 3\) codes",
        ),
        (LowResolutionConfig(pixels_per_code=2), "low", torch.zeros(1, 3, 4, 4), r"must be \(4, 6\) pixels"),
        (TextConfig(tokens=3, channels=5), "text", torch.zeros(1, 4, 5), r"must be \(B, 3, 5\)"),
        (ObjectsConfig(objects=2), "object_classes", torch.zeros(1, 3, dtype=torch.int64), r"must be \(1, 2\)"),
    ],
)
def test_fields_of_the_wrong_shape_are_refused(config, field, value, message):
    with pytest.raises(ValueError, match=message):
        config.build(8, WINDOW)(fields_of(1) | {field: value}, 1)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (ClassConfig(), {"classes": 0}),
        (TextConfig(), {"tokens": 0}),
        (CodeMapConfig(), {"vocab_size": 0}),
        (LowResolutionConfig(), {"pixels_per_code": 0}),
        (CoordinatesConfig(), {"vocab_size": 1}),
        (CoordinateFeaturesConfig(), {"frequencies": 0}),
        (ObjectsConfig(), {"grid": 1}),
        (SEVERAL, {"conditions": (ClassConfig(),)}),
    ],
)
def test_bad_settings_are_refused_by_name(config, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(config, **change)
