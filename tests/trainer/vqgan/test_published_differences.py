"""How large the deliberate differences to the published training are, on tiny networks, as docs/training.md says.

python -m pytest -q -s tests/trainer/vqgan/test_published_differences.py        prints them
"""

import copy

import torch
import torch.nn.functional as F
from fixtures.shards import photo
from torch import Tensor, nn

from smalti.models.discriminators import PatchGANConfig
from smalti.models.losses.lpips import LPIPS
from smalti.trainer.vqgan.frozen_losses import PerceptualConfig, load_lpips


def said(what: str, **figures: float) -> None:
    print(f"\n{what}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def pair(side: int = 32) -> tuple[Tensor, Tensor]:
    """A photo and a blurred, noisy copy of it, (1, 3, H, W) in [-1, 1]."""
    real = torch.from_numpy(photo(side, side, 3)).permute(2, 0, 1)[None].float() / 127.5 - 1
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    return real, (F.avg_pool2d(real, 3, 1, 1) + 0.05 * noise).clamp(-1, 1)


def with_dropout(lpips: LPIPS, real: Tensor, fake: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The distance and its gradient as published training has them: half of what goes into each head dropped."""
    torch.manual_seed(seed)
    leaf = fake.clone().requires_grad_()
    total = leaf.new_zeros(())
    for number, (one, other) in enumerate(zip(lpips.features(real), lpips._taps(leaf), strict=True)):
        gap = F.dropout((one - other).square(), 0.5) * lpips.get_buffer(f"head{number}")
        total = total + gap.sum(1).mean()
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def test_lpips_without_dropout_is_the_mean_of_the_published_gradients():
    lpips = load_lpips(PerceptualConfig(trunk="random"))
    real, fake = pair()
    leaf = fake.clone().requires_grad_()
    value = lpips(real, leaf).mean()
    (gradient,) = torch.autograd.grad(value, leaf)
    values, gradients = zip(*(with_dropout(lpips, real, fake, seed) for seed in range(12)), strict=True)
    off = [((each - gradient).norm() / gradient.norm()).item() for each in gradients]
    mean_off = ((torch.stack(gradients).mean(0) - gradient).norm() / gradient.norm()).item()
    cosine = F.cosine_similarity(gradients[0].flatten(), gradient.flatten(), dim=0).item()
    spread = (torch.stack(values).std() / value).item()
    said("LPIPS dropout", value_spread=spread, gradient_off=sum(off) / 12, cosine=cosine, mean_of_12_off=mean_off)
    assert mean_off < 0.5 * off[0] and spread < 0.1 * off[0]


def test_a_discriminators_adam_that_begins_at_its_start_corrects_its_bias():
    torch.manual_seed(0)
    fresh = PatchGANConfig(channels=16, layers=1, norm="group").build(3)
    counted = copy.deepcopy(fresh)
    adams = [torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.9)) for network in (fresh, counted)]
    for _ in range(200):  # the published loop has stepped it all the time with gradients of 0
        for parameter in counted.parameters():
            parameter.grad = torch.zeros_like(parameter)
        adams[1].step()
    before = [parameter.detach().clone() for parameter in fresh.parameters()]
    real, fake = pair(32)
    first = 0.0
    for step in range(7):
        for network, adam in zip((fresh, counted), adams, strict=True):
            loss = (F.relu(1 - network(real)).mean() + F.relu(1 + network(fake)).mean()) / 2
            adam.zero_grad()
            loss.backward()
            adam.step()
        if step == 0:
            ways = [way(network, before) for network in (counted, fresh)]
            first = ways[0] / ways[1]
    apart = max(
        (one - other).abs().max().item() for one, other in zip(fresh.parameters(), counted.parameters(), strict=True)
    )
    said("Adam of the discriminator", first_update_ratio=first, largest_weight_difference_after_7_steps=apart)
    assert abs(first - 0.5 / 0.1**0.5) < 0.02  # (1 - beta1) / sqrt(1 - beta2): no correction of either moment
    assert 2e-4 < apart < 2 * 7 * 2e-4 * first


def way(network: nn.Module, before: list[Tensor]) -> float:
    moved = [(now.detach() - then).flatten() for now, then in zip(network.parameters(), before, strict=True)]
    return torch.cat(moved).norm().item()


def test_batch_statistics_over_all_ranks_are_those_of_the_whole_batch():
    torch.manual_seed(0)
    whole = PatchGANConfig(channels=16, layers=2, norm="batch").build(3).train()
    parts = copy.deepcopy(whole)
    images = torch.stack([torch.from_numpy(photo(32, 32, seed)).permute(2, 0, 1) for seed in range(8)])
    images = images.float() / 127.5 - 1
    F.relu(1 - whole(images)).mean().backward()
    for part in images.chunk(2):  # each of two GPUs by itself, gradients averaged, as published
        (F.relu(1 - parts(part)).mean() / 2).backward()
    one, other = (torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (whole, parts))
    off = ((one - other).norm() / one.norm()).item()
    cosine = F.cosine_similarity(one, other, dim=0).item()
    said("Batch norm of 8 images on 2 GPUs", gradient_off=off, cosine=cosine)
    assert 0 < off < 1 and cosine > 0.8
