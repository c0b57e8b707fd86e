"""The loss over codes agrees with plain float64 arithmetic, and never holds all logits."""

import pytest
import torch
import torch.nn.functional as F

from smalti.models.losses.chunked_cross_entropy import IGNORED, code_cross_entropy, target_ranks


@pytest.mark.parametrize("rows", [1, 4, 5, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_and_gradients_are_those_of_plain_cross_entropy_whatever_the_piece(rows, smoothing):
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (13, 11))
    targets = torch.randint(11, (13,), generator=generator)
    scale = torch.rand(13, generator=generator, dtype=torch.float64)  # every row has another share of the loss

    def run(loss_of):
        x, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = loss_of(x, w)
        (loss * scale).sum().backward()
        return loss, x.grad, w.grad

    ours = run(lambda x, w: code_cross_entropy(lambda part: part @ w.t(), x, targets, smoothing, rows))
    plain = run(lambda x, w: F.cross_entropy(x @ w.t(), targets, label_smoothing=smoothing, reduction="none"))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_ignored_targets_have_no_loss_and_no_gradient():
    features = torch.randn(4, 3, requires_grad=True)
    weight = torch.randn(5, 3)
    loss = code_cross_entropy(lambda x: x @ weight.t(), features, torch.tensor([1, IGNORED, 2, IGNORED]), rows=3)
    loss.sum().backward()
    assert loss[1] == loss[3] == 0 and loss[0] > 0
    assert (features.grad[[1, 3]] == 0).all() and (features.grad[[0, 2]] != 0).any(1).all()


def test_logits_of_one_piece_live_at_a_time():
    sizes = []

    def head(part):
        sizes.append(len(part))
        return part @ torch.eye(3)

    features = torch.randn(10, 3, requires_grad=True)
    code_cross_entropy(head, features, torch.zeros(10, dtype=torch.int64), rows=4).sum().backward()
    assert sizes == [4, 4, 2, *sizes[3:]] and sorted(sizes[3:]) == [2, 4, 4]  # once forward, once more backward


def test_bfloat16_features_give_float32_losses():
    features = torch.randn(3, 4).bfloat16()
    weight = torch.randn(6, 4).bfloat16()
    targets = torch.tensor([0, 5, 2])
    loss = code_cross_entropy(lambda x: x @ weight.t(), features, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy((features @ weight.t()).float(), targets, reduction="none"))


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_the_rank_of_a_target_is_its_place_among_all_codes_by_their_logits(rows):
    logits = torch.tensor([[0.5, 2.0, -1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 1.0], [1.0, 2.0, 3.0]])
    targets = torch.tensor([1, 2, 0, IGNORED])
    found = target_ranks(lambda part: part, logits, targets, rows)
    assert found[:3].tolist() == [0, 2, 1]
    generator = torch.Generator().manual_seed(0)
    many, wanted = torch.randn(50, 9, generator=generator), torch.randint(9, (50,), generator=generator)
    expected = [row.argsort(descending=True).tolist().index(target) for row, target in zip(many, wanted, strict=True)]
    assert target_ranks(lambda part: part, many, wanted, rows).tolist() == expected
