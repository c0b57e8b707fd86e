"""The losses by hand, and equation 7 against autograd at the last layer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smalti.models.losses.adversarial import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    last_layer_gradient,
    r1,
)
from smalti.models.losses.lecam import LeCAMConfig
from smalti.models.losses.reconstruction import pixel_loss, segmentation_loss


def test_pixel_losses_are_means() -> None:
    real, rebuilt = torch.zeros(1, 1, 1, 4), torch.tensor([[[[1.0, -1, 0, 2]]]])
    assert pixel_loss("l1", real, rebuilt).item() == 1.0
    assert pixel_loss("l2", real, rebuilt).item() == 1.5


def test_hinge_stops_at_the_margin() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    # (0 + 0.5 + 2) / 3 for the real, (0 + 1 + 2) / 3 for the fake, and half of both.
    assert discriminator_loss("hinge", real, fake).item() == pytest.approx((2.5 + 3) / 6)
    assert generator_loss("hinge", fake).item() == pytest.approx(2 / 3)


def test_vanilla_and_non_saturating_are_logs_of_odds() -> None:
    real, fake = torch.tensor([1.0]), torch.tensor([-2.0])

    def surprise(probability: float) -> float:
        return -math.log(probability)

    chance_real, chance_fake = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
    both = surprise(chance_real) + surprise(1 - chance_fake)
    assert discriminator_loss("vanilla", real, fake).item() == pytest.approx(both / 2)
    assert discriminator_loss("non_saturating", real, fake).item() == pytest.approx(both)
    assert generator_loss("vanilla", fake).item() == pytest.approx(2.0)
    assert generator_loss("non_saturating", fake).item() == pytest.approx(surprise(chance_fake))


def test_map_losses_leave_out_places_without_a_label() -> None:
    logits = torch.randn(1, 3, 1, 3, generator=torch.Generator().manual_seed(0))
    maps = torch.tensor([[[2, 255, 0]]], dtype=torch.uint8)
    chances = logits.double().softmax(1)
    crossed = -(chances[0, 2, 0, 0].log() + chances[0, 0, 0, 2].log()) / 2
    assert segmentation_loss("cross_entropy", maps, logits).item() == pytest.approx(crossed.item(), rel=1e-5)
    known = logits[..., [0, 2]].double()
    wanted = torch.tensor([[0.0, 1], [0, 0], [1, 0]])[None, :, None]
    alone = F.softplus(torch.where(wanted > 0, -known, known)).mean()
    assert segmentation_loss("bce", maps, logits).item() == pytest.approx(alone.item(), rel=1e-5)
    nothing = torch.full((1, 1, 3), 255, dtype=torch.uint8)
    assert segmentation_loss("cross_entropy", nothing, logits).item() == 0


def test_map_losses_say_nothing_of_unlabelled_places_to_the_logits() -> None:
    for kind in ("cross_entropy", "bce"):
        logits = torch.randn(1, 3, 2, 2, requires_grad=True)
        maps = torch.tensor([[[0, 255], [1, 2]]])
        segmentation_loss(kind, maps, logits).backward()
        assert logits.grad[0, :, 0, 1].abs().sum() == 0
        assert (logits.grad[0, :, 0, 0].abs() > 0).all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 3, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.Conv2d(4, 3, (3, 5), padding=(1, 2), padding_mode="replicate"),
    ],
)
def test_the_last_layers_gradient_is_what_autograd_finds_there(layer: nn.Conv2d) -> None:
    features = torch.randn(2, 4, 9, 9)
    image = layer(features)
    loss = image.pow(3).sum() + image.abs().sum()
    (expected,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
    (at_image,) = torch.autograd.grad(loss, image)
    torch.testing.assert_close(last_layer_gradient(features, at_image, layer), expected)


def test_last_layer_gradients_of_two_losses_are_found_in_one_look() -> None:
    layer = nn.Conv2d(4, 3, 3, padding=1)
    features, slopes = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    each = [last_layer_gradient(features, slope, layer) for slope in slopes.chunk(2, dim=1)]
    torch.testing.assert_close(last_layer_gradient(features, slopes, layer), torch.cat(each))


def test_the_last_layers_gradient_needs_no_weight() -> None:
    layer = nn.Conv2d(4, 3, 3, padding=1)
    features, slope = torch.randn(1, 4, 5, 5), torch.randn(1, 3, 5, 5)
    expected = last_layer_gradient(features, slope, layer)
    layer.weight.data = torch.empty(0)  # as ZeRO leaves it between uses
    torch.testing.assert_close(last_layer_gradient(features, slope, layer), expected)


def test_adaptive_weight_is_equation_7_through_autograd() -> None:
    torch.manual_seed(0)
    body, layer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
    judge = nn.Conv2d(3, 1, 4, stride=2)
    real = torch.randn(2, 3, 8, 8)
    features = body(real)
    image = layer(features)
    reconstruction, adversarial = (image - real).abs().mean(), -judge(image).mean()
    (rec_grad,) = torch.autograd.grad(reconstruction, layer.weight, retain_graph=True)
    (adv_grad,) = torch.autograd.grad(adversarial, layer.weight, retain_graph=True)
    expected = rec_grad.double().norm() / (adv_grad.double().norm() + 1e-4)

    cut = image.detach().requires_grad_()
    slopes = [torch.autograd.grad(loss, cut)[0] for loss in ((cut - real).abs().mean(), -judge(cut).mean())]
    found = adaptive_weight(*(last_layer_gradient(features, slope, layer) for slope in slopes))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_adaptive_weight_has_its_epsilon_and_no_gradient() -> None:
    rec_grad, adv_grad = torch.full((4,), 1.0), torch.zeros(4)  # lengths 2 and 0
    assert adaptive_weight(rec_grad, adv_grad, epsilon=0.5).item() == 4.0
    assert not adaptive_weight(rec_grad.requires_grad_(), adv_grad).requires_grad


def test_r1_is_the_mean_squared_slope() -> None:
    weight = torch.tensor([[[[3.0]], [[4.0]]]])  # each pixel's logit rises by 3 and 4 with its two channels
    real = torch.randn(2, 2, 5, 5)
    assert r1(lambda images: F.conv2d(images, weight), real).item() == pytest.approx(25 * 25)


def test_lecam_holds_logits_near_the_other_kinds_running_mean() -> None:
    lecam = LeCAMConfig(weight=0.5, decay=0.9).build()
    lecam.update(torch.tensor(10.0), torch.tensor(-10.0))
    assert (lecam.real.item(), lecam.fake.item()) == pytest.approx((1.0, -1.0))
    # Real logits above the fakes' mean of -1: 2^2 and 0. Fake ones below the reals' mean of 1: 3^2 and 0.
    loss = lecam(torch.tensor([1.0, -4.0]), torch.tensor([-2.0, 6.0]))
    assert loss.item() == pytest.approx(0.5 * (4 / 2 + 9 / 2))
    other = LeCAMConfig().build()
    other.load_state_dict(lecam.state_dict())
    assert other.real.item() == pytest.approx(1.0)
