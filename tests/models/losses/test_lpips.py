"""LPIPS and the logit loss against other code for the same networks."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.models.losses.logit_loss import LogitLoss, ResNet50
from smalti.models.losses.lpips import LPIPS, VGG16

WIDTHS = (64, 128, 256, 512, 512)


@pytest.fixture(scope="module")
def weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A random trunk with biases that matter, and random heads."""
    generator = torch.Generator().manual_seed(0)
    trunk = {name: value.clone() for name, value in VGG16().state_dict().items()}
    for name, value in trunk.items():
        if name.endswith("bias"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        else:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for i, width in enumerate(WIDTHS)
    }
    return trunk, heads


def images(seed: int) -> Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_hand(trunk: dict[str, Tensor], heads: dict[str, Tensor], one: Tensor, other: Tensor) -> Tensor:
    """LPIPS in float64 from torchvision's numbering: convolutions by index, poolings before 5, 10, 17 and 24."""

    def taps(x: Tensor) -> list[Tensor]:
        x = x.double() - torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
        x = x / torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
        found = []
        for number in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
            if number in (5, 10, 17, 24):
                found.append(x)
                x = F.max_pool2d(x, 2, 2)
            weight, bias = (trunk[f"features.{number}.{part}"].double() for part in ("weight", "bias"))
            x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
        return [*found, x]

    total = torch.zeros(len(one), dtype=torch.float64)
    for number, (a, b) in enumerate(zip(taps(one), taps(other), strict=True)):
        a, b = (tap / (tap.square().sum(1, keepdim=True).sqrt() + 1e-10) for tap in (a, b))
        head = heads[f"lin{number}.model.1.weight"].double()
        total += (head * (a - b) ** 2).sum(1).mean((1, 2))
    return total


def test_lpips_equals_the_paper_by_hand_with_its_gradient(weights: tuple[dict[str, Tensor], ...]) -> None:
    trunk, heads = weights
    model = LPIPS(trunk, heads)
    real, fake = images(1), images(2).requires_grad_()
    other = fake.detach().clone().requires_grad_()
    expected = by_hand(trunk, heads, real, other)
    found = model(real, fake)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(fake.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_lpips_equals_the_lpips_package(weights: tuple[dict[str, Tensor], ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import lpips
        except Exception as error:  # it needs a torchvision that fits torch, which fails in many ways
            pytest.skip(f"the lpips package does not import here: {error}")
        theirs = lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False).eval()
    trunk, heads = weights
    for name, value in theirs.net.state_dict().items():
        value.copy_(trunk["features." + name.split(".", 1)[1]])
    theirs.load_state_dict(heads, strict=False)
    expected = theirs(images(1), images(2)).flatten()
    torch.testing.assert_close(LPIPS(trunk, heads)(images(1), images(2)), expected.detach())


def test_lpips_is_zero_for_the_same_image_and_its_taps_are_reusable(weights: tuple[dict[str, Tensor], ...]) -> None:
    model = LPIPS(*weights)
    real = images(1)
    assert model(real, real).tolist() == [0, 0]
    known = model.features(real.requires_grad_())
    assert not any(tap.requires_grad for tap in known)
    assert torch.equal(model.distance(known, images(2)), model(real, images(2)))


def test_lpips_is_frozen_and_stays_in_float32_under_autocast(weights: tuple[dict[str, Tensor], ...]) -> None:
    model = LPIPS(*weights)
    expected = model(images(1), images(2))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.train()(images(1), images(2)), expected)


def test_lpips_has_finite_gradients_at_images_without_features(weights: tuple[dict[str, Tensor], ...]) -> None:
    trunk = {name: torch.zeros_like(value) for name, value in weights[0].items()}
    fake = images(2).requires_grad_()
    LPIPS(trunk, weights[1])(images(1), fake).sum().backward()
    assert fake.grad.isfinite().all()


def test_a_trunk_of_another_network_is_refused(weights: tuple[dict[str, Tensor], ...]) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        LPIPS({"features.0.weight": torch.zeros(64, 3, 3, 3)}, weights[1])
    with pytest.raises(KeyError):
        LPIPS(weights[0], {})


def test_the_classifier_has_the_size_and_the_names_of_resnet_50() -> None:
    with torch.device("meta"):
        network = ResNet50()
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032
    weights = network.state_dict()
    assert len(weights) == 320
    assert weights["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert weights["layer4.2.conv2.weight"].shape == (512, 512, 3, 3)
    assert weights["fc.bias"].shape == (1000,)


def test_the_logit_loss_is_frozen_zero_for_the_same_image_and_pulls_towards_it() -> None:
    torch.manual_seed(0)
    loss = LogitLoss(ResNet50().state_dict())
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    real, fake = images(1), images(2).requires_grad_()
    torch.nn.Module.train(torch.nn.Sequential(loss))  # a parent put into training
    assert loss(real, real).tolist() == [0, 0]
    distance = loss(real, fake)
    assert distance.shape == (2,)
    expected = (loss.logits(real) - loss.logits(fake)).square().sum(1) / 1000
    torch.testing.assert_close(distance, expected)
    distance.sum().backward()
    assert fake.grad.abs().sum() > 0
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name
