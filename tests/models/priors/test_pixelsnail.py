"""PixelSNAIL is causal bit by bit, sees all of its past, hears its condition, and samples what it predicts."""

import numpy as np
import pytest
import torch

from smalti.models.conditions import ClassConfig, CodeMapConfig, UnconditionalConfig
from smalti.models.priors.pixelsnail import CausalConv2d, PixelSNAILConfig
from smalti.models.sampling import UNFILLED, GridRequest, GuidanceConfig, SamplingConfig, sample, sample_steps, score

WINDOW, CODES = (3, 4), 11


def tiny(condition=None, window=WINDOW, std=0.3, **settings):
    """A prior with weights large enough that every one of them matters."""
    torch.manual_seed(0)
    shape = {"width": 16, "blocks": 2, "residual_blocks": 1, "reach": 1, "heads": 2, "condition_dropout": 0.1}
    config = PixelSNAILConfig(window=window, **{**shape, **settings})
    prior = config.build(CODES, condition or CodeMapConfig(vocab_size=5)).eval()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return prior


def batch(size=2, seed=1, window=WINDOW):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(5, (size, *window), generator=generator)
    return torch.randint(CODES, (size, *window), generator=generator), {"segmentation_codes": maps}


@pytest.mark.parametrize("itself", [True, False])
def test_a_causal_convolution_is_the_sum_over_what_it_may_see(itself):
    torch.manual_seed(0)
    conv = CausalConv2d(2, 3, reach=2, itself=itself).double()
    x = torch.randn(1, 2, 4, 5).double()
    found = conv(x)[0].detach().numpy()
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    for row in range(4):
        for column in range(5):
            expected = bias.copy()
            for up in range(3):
                for across in range(-2, 3):
                    past = up > 0 or across < 0 or (across == 0 and itself)
                    if past and row >= up and 0 <= column + across < 5:
                        expected += weight[:, :, 2 - up, 2 + across] @ x[0, :, row - up, column + across].numpy()
            assert np.allclose(found[:, row, column], expected, rtol=1e-12)


def test_the_gradient_of_a_logit_to_a_code_that_does_not_precede_it_is_exactly_zero():
    prior = tiny().double()
    indices, fields = batch(1)
    held = []
    prior.tok_emb.register_forward_hook(lambda module, inputs, output: held.append(output.requires_grad_()) or output)
    logits = prior(indices, fields).logits.flatten(0, 2)
    for cell, values in enumerate(logits):
        gradient = torch.autograd.grad(values.square().sum(), held[0], retain_graph=True)[0].flatten(0, 2)
        assert (gradient[cell:] == 0).all()
        assert (gradient[:cell] != 0).any(dim=1).all()


def of_one_cell(layer, maps, row, column):
    """A causal convolution at one cell, summed over what it may see; ``maps`` by (row, column)."""
    total, reach = layer.bias, layer.reach
    for up in range(reach + 1):
        for across in range(-reach, reach + 1):
            before = up > 0 or across < 0 or (across == 0 and layer.seen[reach, reach] == 1)
            if before and (row - up, column + across) in maps:
                weight = layer.weight[:, :, reach - up, reach + across]
                total = total + weight @ maps[row - up, column + across]
    return total


def plain_logits(prior, indices, local):
    """The logits (h, w, K) of one sample's codes (h, w), cell by cell as the paper writes them."""
    elu = torch.nn.functional.elu
    rows, columns = indices.shape
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    read = {cell: prior.tok_emb.weight[indices[cell]] for cell in cells}
    place = {cell: torch.tensor([cell[0] / rows - 0.5, cell[1] / columns - 0.5], dtype=local.dtype) for cell in cells}
    x = {cell: of_one_cell(prior.enter, read, *cell) for cell in cells}

    def dense(layer, *parts):
        return layer.weight[:, :, 0, 0] @ torch.cat(parts) + layer.bias

    def residual(layer, x):
        entered = {cell: elu(x[cell]) for cell in cells}
        first = {cell: of_one_cell(layer.first, entered, *cell) for cell in cells}
        hidden = {cell: elu(first[cell] + dense(layer.local, local[cell])) for cell in cells}
        added = {}
        for cell in cells:
            value, gate = of_one_cell(layer.second, hidden, *cell).chunk(2)
            added[cell] = x[cell] + value / (1 + (-gate).exp())
        return added

    for block in prior.blocks:
        for layer in block.residuals:
            x = residual(layer, x)
        sums, size = {}, prior.config.width // prior.config.heads
        for number, cell in enumerate(cells):
            query, heads = dense(block.query, x[cell], place[cell]), []
            both = [dense(block.key_value, x[seen], read[seen], place[seen]).chunk(2) for seen in cells[:number]]
            for head in range(prior.config.heads):
                part = slice(head * size, (head + 1) * size)
                keys = [key[part] for key, _ in both]
                weights = torch.stack([query.new_zeros(()), *(query[part] @ key / size**0.5 for key in keys)]).exp()
                values = [weight * value[part] for weight, (_, value) in zip(weights[1:], both, strict=True)]
                heads.append(sum(values, query.new_zeros(size)) / weights.sum())
            sums[cell] = x[cell] + dense(block.attended, torch.cat(heads))
        x = residual(block.out, sums)
    logits = torch.stack([prior.head.weight @ elu(x[cell]) for cell in cells])
    return logits.view(rows, columns, -1)


def test_the_logits_are_those_of_a_plain_formulation_cell_by_cell():
    window = (4, 4)
    prior = tiny(window=window).double()
    indices, fields = batch(window=window)
    found = prior(indices, fields).logits
    local = prior.standing(prior.condition(fields, 2))
    for logits, codes, said in zip(found, indices, local, strict=True):
        torch.testing.assert_close(logits, plain_logits(prior, codes, said), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("begun", [0, 1, 5, 11])
def test_cached_steps_give_the_logits_of_the_whole_window_whatever_lies_ahead(begun):
    prior = tiny().double()
    indices, fields = batch()
    expected = prior(indices, fields).logits.flatten(1, 2)
    codes = indices.flatten(1)
    cache = prior.cache(3, prior.step_weights())
    padded = torch.cat((codes[:, :begun], torch.full((2, 11 - begun), 7)), dim=1)  # what is not held leaves no trace
    held, lanes = torch.tensor([begun, begun]), torch.tensor([2, 0])
    logits = prior.prefill(padded, held, fields, torch.zeros(2, dtype=torch.bool), cache, lanes)
    torch.testing.assert_close(logits, expected[:, begun], rtol=1e-9, atol=1e-9)
    for count in range(begun, 11):
        if count == begun + 2:  # lanes that take no part are left as they are
            prior.step(torch.tensor([3, 3, 3]), cache, torch.tensor([False, False, False]))
        read = torch.stack((codes[1, count], torch.tensor(0), codes[0, count]))
        found = prior.step(read, cache, torch.tensor([True, False, True]))[[2, 0]]
        torch.testing.assert_close(found, expected[:, count + 1], rtol=1e-9, atol=1e-9)


def test_a_code_leaves_the_logits_of_its_past_bitwise_untouched_and_reaches_all_that_follow():
    prior = tiny()
    indices, fields = batch(1)
    before = prior(indices, fields).logits.flatten(0, 2)
    for cell in range(indices[0].numel()):
        changed = indices.clone()
        changed.view(-1)[cell] = (changed.view(-1)[cell] + 1) % CODES
        after = prior(changed, fields).logits.flatten(0, 2)
        assert torch.equal(before[: cell + 1], after[: cell + 1])
        assert (before[cell + 1 :] != after[cell + 1 :]).any(dim=1).all()


def test_targets_give_the_cross_entropy_of_the_logits():
    prior = tiny()
    indices, fields = batch()
    expected = -prior(indices, fields).logits.log_softmax(3).gather(3, indices[..., None])[..., 0]
    torch.testing.assert_close(prior(indices, fields, targets=indices).loss, expected)


@pytest.mark.parametrize("condition", [ClassConfig(classes=4), CodeMapConfig(vocab_size=5)])
def test_the_condition_changes_every_logit_and_can_be_dropped(condition):
    prior = tiny(condition)
    indices, maps = batch()
    given = [
        maps | {"cls": torch.tensor([1, 2])},
        {"segmentation_codes": 4 - maps["segmentation_codes"], "cls": torch.tensor([0, 3])},
    ]
    one, other = (prior(indices, fields).logits for fields in given)
    assert (one != other).any(dim=3).all()
    dropped = torch.tensor([True, True])
    assert torch.equal(*(prior(indices, fields, dropped=dropped).logits for fields in given))


def test_checkpointing_changes_no_gradient():
    gradients = []
    for activation_checkpointing in (False, True):
        prior = tiny(activation_checkpointing=activation_checkpointing).train()
        indices, fields = batch()
        prior(indices, fields, targets=indices, dropped=torch.tensor([False, True])).loss.mean().backward()
        gradients.append([parameter.grad for parameter in prior.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


def test_a_grid_is_learnt_by_heart():
    prior = PixelSNAILConfig(width=16, blocks=1, residual_blocks=1, reach=1, heads=2, window=WINDOW).build(
        CODES, UnconditionalConfig()
    )
    indices, _ = batch(1)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(60):
        loss = prior(indices, {}, targets=indices).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    drawn = sample(GridRequest(prior.eval(), {}, WINDOW, [0], 0, SamplingConfig(greedy=True)))
    assert torch.equal(drawn.codes, indices)


@pytest.mark.parametrize("size", [WINDOW, (5, 6)])
def test_scores_are_those_of_the_window_that_each_code_was_sampled_from(size):
    prior = tiny()
    _, fields = batch(2, window=size)
    drawn = sample(GridRequest(prior, fields, size, [3, 4], 0, SamplingConfig(lanes=2)))
    torch.testing.assert_close(score(prior, fields, drawn.codes, SamplingConfig(lanes=2)), drawn.scores)
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = min(max(row - 1, 0), size[0] - 3), min(max(column - 2, 0), size[1] - 4)
            place = slice(top, top + 3), slice(left, left + 4)
            window = {"segmentation_codes": fields["segmentation_codes"][(slice(None), *place)]}
            logits = prior(drawn.codes[(slice(None), *place)], window).logits[:, row - top, column - left]
            wanted = logits.log_softmax(1).gather(1, drawn.codes[:, row, column, None])[:, 0]
            torch.testing.assert_close(drawn.scores[:, row, column], wanted, rtol=1e-4, atol=1e-5)


def test_an_image_does_not_depend_on_those_beside_it_nor_on_a_stop():
    prior = tiny(ClassConfig(classes=4))
    labels, config = torch.tensor([0, 1, 2, 3, 1]), SamplingConfig(lanes=2, guidance=GuidanceConfig(2.0))
    whole = sample(GridRequest(prior, {"cls": labels}, WINDOW, range(5), 7, config)).codes
    for number in range(5):
        alone = GridRequest(prior, {"cls": labels[number : number + 1]}, WINDOW, [number], 7, config)
        assert torch.equal(sample(alone).codes[0], whole[number])
    request = GridRequest(prior, {"cls": labels}, WINDOW, range(5), 7, config)
    for state in sample_steps(request):
        if state.filled == 6:
            stopped = state._replace(codes=state.codes.clone(), scores=state.scores.clone())
    assert int((stopped.codes[0] == UNFILLED).sum()) == 6
    assert torch.equal(sample(request, resume_from=stopped).codes, whole)
    plain = sample(GridRequest(prior, {"cls": labels}, WINDOW, range(5), 7, SamplingConfig(lanes=2))).codes
    assert not torch.equal(plain, whole)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"width \(=10\) must be a multiple of heads \(=4\)"):
        PixelSNAILConfig(width=10, heads=4)
    prior = tiny()
    indices, fields = batch()
    with pytest.raises(ValueError, match="has one order, the raster's"):
        prior(indices, fields, order=torch.arange(12).expand(2, -1))
    with pytest.raises(ValueError, match="grids of at least 3 codes a side, got 2"):
        sample(GridRequest(prior, fields, (2, 4), [0, 1], 0, SamplingConfig()))
