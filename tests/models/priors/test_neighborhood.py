"""The prior made for large images sees its neighborhood alone, and its rolling cache equals its training mask."""

import itertools

import pytest
import torch

from smalti.models.conditions import (
    CaptionConfig,
    ClassConfig,
    CodeMapConfig,
    CompositeConfig,
    CoordinatesConfig,
    UnconditionalConfig,
)
from smalti.models.priors.neighborhood import NeighborhoodConfig, causal_neighborhood
from smalti.models.sampling import UNFILLED, GridRequest, GuidanceConfig, SamplingConfig, sample, sample_steps, score

CODES = 11
SIZES = [(4, 5), (6, 5), (4, 9), (9, 12)]


def tiny(window=(4, 5), condition=None, layers=2, rows_above=2, columns_beside=2, **settings):
    torch.manual_seed(0)
    config = NeighborhoodConfig(
        layers=layers,
        heads=2,
        width=16,
        window=window,
        rows_above=rows_above,
        columns_beside=columns_beside,
        condition_dropout=0.1,
        **settings,
    )
    prior = config.build(CODES, condition or CodeMapConfig(vocab_size=5)).eval()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return prior


def fields_of(images, size):
    generators = [torch.Generator().manual_seed(image) for image in images]
    return {
        "segmentation_codes": torch.stack([torch.randint(5, size, generator=generator) for generator in generators]),
        "cls": torch.tensor([image % 4 for image in images]),
        "box": torch.tensor([[0.0, 0.0, 16.0 * size[1], 16.0 * size[0]]]).expand(len(images), 4),
        "source_size": torch.tensor([[16.0 * size[0], 16.0 * size[1]]]).expand(len(images), 2),
        "flip": torch.zeros(len(images), dtype=torch.bool),
    }


def trained_on(size, prior):
    """The same weights as a prior whose window is the whole grid, so that one forward is the training mask's."""
    whole = tiny(
        size,
        CodeMapConfig(vocab_size=5),
        rows_above=prior.config.rows_above,
        columns_beside=prior.config.columns_beside,
    )
    whole.load_state_dict(prior.state_dict())
    return whole.eval()


def test_the_mask_is_the_neighborhood_drawn_by_hand():
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    mask = causal_neighborhood(cells, above=1, beside=1)
    seen = mask[2 * 4 + 1].view(3, 4).int().tolist()  # from row 2, column 1
    assert seen == [[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]


def test_one_layer_sees_its_neighborhood_and_nothing_else_bit_by_bit():
    prior = tiny((5, 6), layers=1, rows_above=2, columns_beside=1)
    fields = fields_of([0], (5, 6))
    indices = torch.randint(CODES, (1, 5, 6), generator=torch.Generator().manual_seed(1))
    before = prior(indices, fields).logits[0]
    for row, column in itertools.product(range(5), range(6)):
        changed = indices.clone()
        changed[0, row, column] = (changed[0, row, column] + 1) % CODES
        moved = (prior(changed, fields).logits[0] != before).any(-1)
        for i, j in itertools.product(range(5), range(6)):
            # Code (row, column) is read at position (row, column + 1).
            own_row = i == row and 0 <= j - (column + 1) <= 1
            below = 1 <= i - row <= 2 and abs(j - (column + 1)) <= 1
            assert bool(moved[i, j]) == (own_row or below)


def test_deep_layers_are_causal_bit_by_bit():
    prior = tiny(layers=3)
    fields = fields_of([0], (4, 5))
    indices = torch.randint(CODES, (1, 4, 5))
    before = prior(indices, fields).logits.flatten(1, 2)[0]
    for cell in range(20):
        changed = indices.flatten().clone()
        changed[cell] = (changed[cell] + 1) % CODES
        after = prior(changed.view_as(indices), fields).logits.flatten(1, 2)[0]
        assert torch.equal(after[: cell + 1], before[: cell + 1])
        if cell < 19:
            assert not torch.equal(after[cell + 1 :], before[cell + 1 :])


def test_the_last_code_of_a_row_is_seen_below():
    prior = tiny()
    fields = fields_of([0], (4, 5))
    indices = torch.zeros(1, 4, 5, dtype=torch.int64)
    changed = indices.clone()
    changed[0, 1, 4] = 3
    moved = (prior(indices, fields).logits != prior(changed, fields).logits).any(-1)[0]
    assert moved[2, 3] and moved[2, 4] and not moved[1].any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["serial", "wavefront"])
def test_the_rolling_cache_equals_the_training_mask(size, mode):
    """What is sampled code by code, scored by one forward over the whole grid, has the same likelihoods."""
    prior = tiny()
    fields = fields_of([0, 1], size)
    state = sample(GridRequest(prior, fields, size, (0, 1), 3, SamplingConfig(mode=mode, lanes=2)))
    loss = trained_on(size, prior)(state.codes, fields, state.codes).loss
    torch.testing.assert_close(state.scores, -loss, rtol=1e-4, atol=1e-4)
    assert torch.equal(score(prior, fields, state.codes, SamplingConfig(mode=mode, lanes=2)), state.scores)


def test_keys_and_values_mean_the_same_anywhere():
    """A cell whose whole past field of view is the same elsewhere has the same logits there."""
    prior = tiny((4, 5), UnconditionalConfig(), layers=1, rows_above=1, columns_beside=1)
    indices = torch.randint(CODES, (1, 4, 5))
    indices[0, 2:4, 1:5] = indices[0, 0:2, 0:4]  # the same codes two rows down, one column to the right
    logits = prior(indices, {}).logits[0]
    torch.testing.assert_close(logits[3, 3], logits[1, 2], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits[3, 4], logits[1, 2])


@pytest.mark.parametrize("lanes", [1, 3, 8])
@pytest.mark.parametrize("size", [(4, 5), (6, 13)])
def test_modes_batches_and_ranks_give_the_same_bits(lanes, size):
    prior, images = tiny(), (0, 1, 2)
    fields = fields_of(images, size)

    def sampled(chosen, mode):
        part = {name: tensor[list(chosen)] for name, tensor in fields.items()}
        return sample(GridRequest(prior, part, size, chosen, 9, SamplingConfig(mode=mode, lanes=lanes)))

    together = sampled(images, "serial")
    for chosen, mode in (((0, 1, 2), "wavefront"), ((2, 0), "wavefront"), ((1,), "serial")):
        alone = sampled(chosen, mode)
        assert torch.equal(alone.codes, together.codes[list(chosen)])
        assert torch.equal(alone.scores, together.scores[list(chosen)])


@pytest.mark.parametrize("mode", ["serial", "wavefront"])
def test_completion_keeps_what_is_given_and_sees_it(mode):
    prior, size = tiny(), (6, 9)
    fields = fields_of([0, 1], size)
    generator = torch.Generator().manual_seed(1)
    given = torch.randint(CODES, (2, *size), generator=generator)
    erased = torch.rand(given.shape, generator=generator) < 0.5
    given[erased] = UNFILLED
    state = sample(GridRequest(prior, fields, size, (0, 1), 4, SamplingConfig(mode=mode), given))
    assert torch.equal(state.codes[~erased], given[~erased]) and (state.codes >= 0).all()
    loss = trained_on(size, prior)(state.codes, fields, state.codes).loss
    torch.testing.assert_close(state.scores, -loss.masked_fill(~erased, 0), rtol=1e-4, atol=1e-4)


def test_a_sampling_that_was_stopped_goes_on_bit_by_bit():
    prior, size = tiny(), (5, 9)
    fields = fields_of([0], size)
    whole = sample(GridRequest(prior, fields, size, (0,), 6, SamplingConfig()))
    for state in sample_steps(GridRequest(prior, fields, size, (0,), 6, SamplingConfig())):
        if state.filled >= 17:
            break
    resumed = sample(GridRequest(prior, fields, size, (0,), 6, SamplingConfig(), known_codes=state.codes))
    assert torch.equal(resumed.codes, whole.codes)


@pytest.mark.parametrize(
    "condition",
    [
        UnconditionalConfig(),
        ClassConfig(classes=4),
        CoordinatesConfig(vocab_size=16),
        CompositeConfig(conditions=(ClassConfig(classes=4), CodeMapConfig(vocab_size=5))),
    ],
    ids=lambda config: config.kind,
)
def test_every_kind_of_condition_is_put_where_it_stands(condition):
    prior = tiny((4, 5), condition)
    fields = fields_of([0, 1], (4, 5))
    state = sample(GridRequest(prior, fields, (4, 5), (0, 1), 3, SamplingConfig()))
    loss = prior(state.codes, fields, state.codes).loss
    torch.testing.assert_close(state.scores, -loss, rtol=1e-4, atol=1e-4)
    larger = fields_of([0, 1], (7, 11))
    assert (sample(GridRequest(prior, larger, (7, 11), (0, 1), 3, SamplingConfig())).codes >= 0).all()


def test_guidance_follows_its_formula():
    prior, size = tiny(), (4, 7)
    fields = fields_of([0], size)
    config = SamplingConfig(greedy=True, guidance=GuidanceConfig(2.0))
    codes = sample(GridRequest(prior, fields, size, (0,), 3, config)).codes
    whole = trained_on(size, prior)
    conditioned = whole(codes, fields).logits
    absent = whole(codes, fields, dropped=torch.tensor([True])).logits
    assert torch.equal((absent + 2 * (conditioned - absent)).argmax(-1), codes)


def test_activation_checkpointing_changes_nothing():
    fields, indices = fields_of([0, 1], (4, 5)), torch.randint(CODES, (2, 4, 5))
    losses = []
    for checkpointed in (False, True):
        prior = tiny(activation_checkpointing=checkpointed).train()
        loss = prior(indices, fields, indices).loss.mean()
        loss.backward()
        losses.append((loss, prior.tok_emb.weight.grad, prior.edge.grad))
    for plain, recomputed in zip(*losses, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_tiny_set_is_learned_by_heart():
    torch.manual_seed(0)
    config = NeighborhoodConfig(layers=2, heads=2, width=32, window=(4, 5), rows_above=2, columns_beside=2)
    prior = config.build(CODES, ClassConfig(classes=4))
    indices, fields = torch.randint(CODES, (4, 4, 5)), {"cls": torch.arange(4)}
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for _ in range(60):
        loss = prior(indices, fields, indices).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_small_grids_and_bad_configs_are_refused():
    with pytest.raises(ValueError, match="at least 5 codes a side, got 4"):
        sample(GridRequest(tiny(), fields_of([0], (4, 4)), (4, 4), (0,), 0, SamplingConfig()))
    with pytest.raises(ValueError, match=r"above must be at least 1, got 0; .*multiple of 4 \* heads"):
        NeighborhoodConfig(rows_above=0, width=40, heads=16)


def test_a_condition_that_hides_tokens_is_refused():
    with pytest.raises(ValueError, match="cannot hide tokens of its condition; use a prior of kind gpt"):
        tiny(condition=CompositeConfig(conditions=(ClassConfig(4), CaptionConfig(tokens=3, channels=5))))
