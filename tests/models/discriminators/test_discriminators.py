"""The discriminators, and the batch norm that ranks can share."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from smalti.models.discriminators import (
    ActNorm,
    BatchNorm,
    BlurPatchGANConfig,
    DiscriminatorConfig,
    PatchGANConfig,
    StyleGANConfig,
)
from smalti.models.discriminators.blur import Blur
from smalti.models.discriminators.stylegan import with_deviation
from smalti.models.layers.cross_rank_statistics import set_cross_rank_reduce
from smalti.models.losses.adversarial import r1


def small(kind: type[DiscriminatorConfig]) -> DiscriminatorConfig:
    if kind is PatchGANConfig:
        return PatchGANConfig(channels=16, layers=2)
    if kind is BlurPatchGANConfig:
        return BlurPatchGANConfig(channels=32, stages=2)
    return StyleGANConfig(resolution=32, capacity=512, widest=32)


every = pytest.mark.parametrize("config", [small(kind) for kind in get_args(DiscriminatorConfig)], ids=lambda c: c.kind)


def images(batch: int = 4, channels: int = 3, side: int = 32) -> Tensor:
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@every
def test_every_discriminator_judges_and_learns(config: DiscriminatorConfig) -> None:
    torch.manual_seed(0)
    network, real = config.build(3), images().requires_grad_()
    logits = network(real)
    assert logits.shape[:2] == (4, 1)
    logits.square().sum().backward()
    assert real.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every
def test_every_discriminator_takes_other_channels_and_bfloat16_weights(config: DiscriminatorConfig) -> None:
    assert config.build(1).bfloat16()(images(channels=1)).dtype == torch.bfloat16


@every
def test_every_discriminator_can_be_made_less_steep(config: DiscriminatorConfig) -> None:
    torch.manual_seed(0)
    network = config.build(3)
    penalty = r1(network, images())
    penalty.backward()
    assert penalty > 0
    assert sum(p.grad.abs().sum() for p in network.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize(("layers", "parameters", "side"), [(3, 2_765_633, 30), (2, 663_361, 62)])
def test_the_published_patch_discriminators_have_their_size_and_their_patches(
    layers: int, parameters: int, side: int
) -> None:
    with torch.device("meta"):
        network = PatchGANConfig(layers=layers).build(3)
        assert network(torch.empty(1, 3, 256, 256)).shape == (1, 1, side, side)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_names_of_the_patch_discriminator_are_those_of_the_released_checkpoints() -> None:
    with torch.device("meta"):
        names = PatchGANConfig().build(3).state_dict()
    assert {int(name.split(".")[1]) for name in names} == {0, 2, 3, 5, 6, 8, 9, 11}
    batch_norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert {name.removeprefix("main.3.") for name in names if name.startswith("main.3.")} == batch_norm
    assert "main.2.bias" not in names and "main.11.bias" in names


def test_the_stylegan_discriminator_has_the_published_size() -> None:
    with torch.device("meta"):
        network = StyleGANConfig(resolution=256).build(3)
    assert sum(parameter.numel() for parameter in network.parameters()) == 28_864_129


def test_the_stylegan_discriminator_refuses_another_size_with_a_way_out() -> None:
    network = StyleGANConfig(resolution=32, capacity=512, widest=32).build(3)
    with pytest.raises(ValueError, match="judges 32 x 32 images, got 64 x 64; set its resolution"):
        network(images(side=64))


def test_batch_norm_equals_that_of_torch_in_both_modes() -> None:
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    theirs.load_state_dict(ours.state_dict())
    for seed in range(3):
        x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(seed)) * 3 + 100
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(ours(one), theirs(other), rtol=1e-4, atol=1e-4)
        ours(one).pow(3).sum().backward()
        theirs(other).pow(3).sum().backward()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-2, atol=2e-3)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    ours(x)
    theirs(x)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-4)


def test_batch_norm_over_ranks_of_unequal_batches_is_that_of_one_process() -> None:
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double().float()
    whole = BatchNorm(3)
    wanted = whole(x)
    sums: list[Tensor] = []
    other = BatchNorm(3)
    set_cross_rank_reduce(other, lambda total: (sums.append(total), total)[1])
    other(x[2:])
    mine = nn.Sequential(BatchNorm(3))
    set_cross_rank_reduce(mine, lambda total: total + sums[0])
    torch.testing.assert_close(mine(x[:2]), wanted[:2])
    torch.testing.assert_close(mine[0].running_var, whole.running_var)


class PublishedActNorm(nn.Module):
    """The reference's: two parameters that the first batch overwrites."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc, self.scale = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.ones(channels))
        self.begun = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.begun:
            rows = x.detach().transpose(0, 1).flatten(1)
            self.loc.data, self.scale.data, self.begun = -rows.mean(1), 1 / (rows.std(1) + 1e-6), True
        return self.scale[:, None, None] * (x + self.loc[:, None, None])


def test_act_norm_takes_the_steps_of_the_published_one() -> None:
    torch.manual_seed(0)
    ours, theirs = ActNorm(3), PublishedActNorm(3)
    adams = [torch.optim.Adam(network.parameters(), 0.05, (0.5, 0.9)) for network in (ours, theirs)]
    for step in range(4):
        x = torch.randn(4, 3, 5, 6) * (step + 1) + 10
        outputs = [network(x) for network in (ours, theirs)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
        for adam, output in zip(adams, outputs, strict=True):
            adam.zero_grad()
            output.pow(3).mean().backward()
            adam.step()
    again = ActNorm(3)
    again.load_state_dict(ours.state_dict())
    torch.testing.assert_close(again.train()(x), ours(x), rtol=0, atol=0)  # it begins once, however often it is loaded
    assert torch.equal(ActNorm(3).eval()(x), x)  # before its first batch in training it does nothing


def test_act_norm_over_ranks_of_unequal_batches_is_that_of_one_process() -> None:
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 5
    whole, mine, other = ActNorm(3), ActNorm(3), ActNorm(3)
    wanted = whole(x)
    sums: list[Tensor] = []
    set_cross_rank_reduce(other, lambda total: (sums.append(total), total)[1])
    other(x[2:])
    set_cross_rank_reduce(mine, lambda total: total + sums[0])
    torch.testing.assert_close(mine(x[:2]), wanted[:2])


def test_blur_halves_a_ramp_into_a_ramp_and_keeps_sums() -> None:
    ramp = torch.arange(12.0).expand(1, 2, 12, 12)
    blurred = Blur(stride=2, padding=(1, 1))(ramp)
    assert blurred.shape == (1, 2, 6, 6)
    # (1, 3, 3, 1) / 8 around columns 2i and 2i + 1 has its mean at 2i + 0.5.
    torch.testing.assert_close(blurred[0, 0, 2, 1:5], torch.tensor([2.5, 4.5, 6.5, 8.5]))
    torch.testing.assert_close(blurred[0, 0], blurred[0, 1])
    assert not Blur(stride=2, padding=(1, 1)).state_dict()


def test_the_stylegan_discriminator_sees_the_images_beside_an_image() -> None:
    torch.manual_seed(0)
    network = StyleGANConfig(resolution=32, capacity=512, widest=32).build(3)
    several = images()
    repeated = several[:1].expand(4, 3, 32, 32)
    assert (network(several)[0] - network(repeated)[0]).abs() > 1e-4


def test_the_deviation_channel_shows_a_batch_of_one_image_over_and_over() -> None:
    same = images(batch=1).expand(4, 3, 32, 32)
    assert with_deviation(same)[:, 3].abs().max() <= 1e-4 + 1e-8
    two = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 2.0)])
    torch.testing.assert_close(with_deviation(two)[:, 3], torch.ones(2, 4, 4))
    assert with_deviation(images(batch=5)).shape == (5, 4, 32, 32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PatchGANConfig(layers=0), "layers must be at least 1"),
        (lambda: PatchGANConfig(channels=24, norm="group"), "multiple of 16 with norm: group"),
        (lambda: BlurPatchGANConfig(channels=48), "multiple of the 32 groups"),
        (lambda: StyleGANConfig(resolution=48), "power of two from 8 on, got 48"),
    ],
)
def test_shapes_that_cannot_be_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
