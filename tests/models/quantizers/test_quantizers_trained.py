"""Codebooks that learn: VQ, moving averages, cosine, Gumbel, SimVQ and IBQ against arithmetic done another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.models.quantizers import (
    CodeStatistics,
    CosineConfig,
    EMAConfig,
    EntropyConfig,
    GumbelConfig,
    IBQConfig,
    SimVQConfig,
    VQConfig,
)
from smalti.models.quantizers.vq import VectorQuantizer


def latents(channels: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, 3, 5, generator=torch.Generator().manual_seed(seed))


def as_rows(z: Tensor) -> Tensor:
    """(B, C, h, w) to (B*h*w, C) in float64."""
    return z.movedim(1, -1).reshape(-1, z.shape[1]).double()


def vq(**settings: object) -> VectorQuantizer:
    torch.manual_seed(0)
    quantizer = VQConfig(codebook_size=16, **settings).build(4)
    torch.nn.init.normal_(quantizer.embedding.weight)
    return quantizer


def test_vq_takes_the_code_at_the_smallest_distance() -> None:
    quantizer, z = vq(), latents()
    distances = torch.cdist(as_rows(z), quantizer.embedding.weight.detach().double())
    assert torch.equal(quantizer(z).indices.flatten(), distances.argmin(1))


def test_vq_pulls_codes_with_weight_1_and_features_with_beta() -> None:
    quantizer, z = vq(commitment_weight=0.25, codebook_weight=2.0), latents().requires_grad_()
    quantized = quantizer(z)
    quantized.loss.backward()
    rows, book = as_rows(z.detach()), quantizer.embedding.weight.detach().double()
    gaps = rows - book[quantized.indices.flatten()]
    torch.testing.assert_close(quantized.loss.item(), 2 * 1.25 * gaps.square().mean().item(), rtol=1e-6, atol=0)
    torch.testing.assert_close(as_rows(z.grad), 2 * 0.25 * 2 * gaps / gaps.numel())
    gradients_of_codes = torch.zeros_like(book).index_add_(0, quantized.indices.flatten(), -2 * 2 * gaps / gaps.numel())
    torch.testing.assert_close(quantizer.embedding.weight.grad.double(), gradients_of_codes)


def test_legacy_beta_puts_beta_on_the_codes_instead() -> None:
    modern, legacy = vq(commitment_weight=0.25), vq(commitment_weight=0.25, legacy_beta=True)
    gradients = {}
    for name, quantizer in (("modern", modern), ("legacy", legacy)):
        z = latents().requires_grad_()
        quantizer(z).loss.backward()
        gradients[name] = (z.grad, quantizer.embedding.weight.grad)
    torch.testing.assert_close(gradients["legacy"][0], 4 * gradients["modern"][0])
    torch.testing.assert_close(gradients["legacy"][1], 0.25 * gradients["modern"][1])


def test_the_gradient_of_the_quantized_features_passes_straight_through() -> None:
    z, slope = latents().requires_grad_(), latents(seed=1)
    (vq()(z).features * slope).sum().backward()
    torch.testing.assert_close(z.grad, slope)


def test_vq_revives_codes_idle_for_longer_than_allowed_and_no_others() -> None:
    quantizer = vq(replace_dead_after=2)
    before = quantizer.embedding.weight.detach().clone()
    used = torch.ones(16)
    used[[3, 7]] = 0
    candidates = 10 + torch.randn(30, 4)
    observed = CodeStatistics(used, torch.zeros(16, 0))
    assert quantizer.post_step_update(observed, candidates, 1) is None
    assert quantizer.post_step_update(observed, candidates, 2) is None
    book = quantizer.post_step_update(observed, candidates, 3)
    assert torch.equal(quantizer.embedding.weight, before)  # only an engine may write it
    changed = (book != before).any(1)
    assert changed.nonzero().flatten().tolist() == [3, 7]
    assert all((candidates == row).all(1).any() for row in book[changed])
    assert not torch.equal(book[3], book[7])
    assert quantizer.post_step_update(observed, candidates, 4) is None  # their idle steps count from here again


def test_moving_average_is_the_published_one_in_float64() -> None:
    torch.manual_seed(0)
    quantizer = EMAConfig(codebook_size=8, decay=0.9, eps=1e-3).build(4)
    sizes, sums = torch.ones(8, dtype=torch.float64), quantizer.embedding.weight.double()
    for seed in range(4):
        z = latents(seed=seed)
        indices = quantizer(z).indices
        members = F.one_hot(indices.flatten(), 8).double()
        sizes = 0.9 * sizes + 0.1 * members.sum(0)
        sums = 0.9 * sums + 0.1 * members.T @ as_rows(z)
        smoothed = (sizes + 1e-3) / (sizes.sum() + 8 * 1e-3) * sizes.sum()
        assert quantizer.post_step_update(quantizer.code_statistics(z, indices), torch.empty(0, 4), seed) is None
        torch.testing.assert_close(quantizer.embedding.weight.double(), sums / smoothed[:, None], rtol=1e-5, atol=1e-6)


def test_moving_average_of_two_ranks_is_that_of_one_with_both_batches() -> None:
    torch.manual_seed(0)
    alone = EMAConfig(codebook_size=8).build(4)
    ranked = EMAConfig(codebook_size=8).build(4)
    ranked.load_state_dict(alone.state_dict())
    z = torch.cat([latents(seed=1), latents(seed=2)])
    indices = alone(z).indices
    halves = [ranked.code_statistics(z[part], indices[part]) for part in (slice(0, 2), slice(2, 4))]
    ranked.post_step_update(
        CodeStatistics(halves[0].counts + halves[1].counts, halves[0].sums + halves[1].sums), z.new_empty(0, 4), 0
    )
    alone.post_step_update(alone.code_statistics(z, indices), z.new_empty(0, 4), 0)
    torch.testing.assert_close(ranked.embedding.weight, alone.embedding.weight)


def test_moving_average_pulls_features_by_beta_and_trains_no_parameter() -> None:
    quantizer = EMAConfig(codebook_size=8, commitment_weight=0.5).build(4)
    z = latents().requires_grad_()
    quantized = quantizer(z)
    quantized.loss.backward()
    gaps = as_rows(z.detach()) - quantizer.embedding.weight[quantized.indices.flatten()].double()
    torch.testing.assert_close(as_rows(z.grad), 0.5 * 2 * gaps / gaps.numel())
    assert not list(quantizer.parameters())


def test_a_revived_moving_average_stays_where_it_was_put() -> None:
    torch.manual_seed(0)
    quantizer = EMAConfig(codebook_size=4, decay=0.5, replace_dead_after=1).build(2)
    candidates = 5 + torch.randn(9, 2)
    used = torch.tensor([9.0, 9, 9, 0])
    observed = CodeStatistics(used, used[:, None] * torch.randn(4, 2))
    for seed in range(2):
        quantizer.post_step_update(observed, candidates, seed)
    assert (candidates == quantizer.embedding.weight[3]).all(1).any()
    placed = quantizer.embedding.weight[3].clone()
    quantizer.post_step_update(observed, candidates, 2)  # nobody chooses it yet: both averages decay alike
    torch.testing.assert_close(quantizer.embedding.weight[3], placed, rtol=1e-3, atol=1e-3)


def test_running_averages_stay_in_float32_in_a_bfloat16_network() -> None:
    quantizer = torch.nn.Sequential(EMAConfig(codebook_size=4).build(2)).bfloat16()[0]
    assert {buffer.dtype for buffer in quantizer.buffers()} == {torch.float32, torch.int64}


def test_cosine_takes_the_code_at_the_smallest_angle_and_gives_unit_vectors() -> None:
    torch.manual_seed(0)
    quantizer, z = CosineConfig(codebook_size=16).build(4), latents()
    quantizer.embedding.weight.data *= torch.rand(16, 1) * 5 + 0.1  # lengths must not matter
    angles = F.cosine_similarity(as_rows(z)[:, None], quantizer.embedding.weight.detach().double()[None], dim=2)
    quantized = quantizer(z)
    assert torch.equal(quantized.indices.flatten(), angles.argmax(1))
    torch.testing.assert_close(quantized.features.norm(dim=1), torch.ones(2, 3, 5))
    # For unit vectors |z - e|^2 = 2 - 2 cos, here a mean over 4 channels, once for the codes and beta for the features.
    expected = 1.25 * (2 - 2 * angles.max(1).values).mean().item() / 4
    assert quantized.loss.item() == pytest.approx(expected, rel=1e-5)


def test_cosine_starts_and_revives_on_directions_of_the_features() -> None:
    quantizer = CosineConfig(codebook_size=16, replace_dead_after=1).build(4)
    candidates = 100 * torch.randn(64, 4)
    torch.testing.assert_close(quantizer.init_codebook(candidates, 0).norm(dim=1), torch.ones(16))
    idle = CodeStatistics(torch.zeros(16), torch.zeros(16, 0))
    assert quantizer.post_step_update(idle, candidates, 0) is None
    torch.testing.assert_close(quantizer.post_step_update(idle, candidates, 1).norm(dim=1), torch.ones(16))


def test_gumbel_falls_along_a_cosine_and_stays_down() -> None:
    config = GumbelConfig(temperature_start=1.0, temperature_end=0.2, temperature_steps=100)
    assert config.temperature(0) == 1.0
    assert config.temperature(50) == pytest.approx(0.6)
    assert config.temperature(25) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert config.temperature(100) == config.temperature(10_000) == pytest.approx(0.2)


def test_gumbel_draws_codes_as_often_as_their_softmax_says() -> None:
    torch.manual_seed(0)
    quantizer = GumbelConfig(codebook_size=4).build(2)
    z = torch.tensor([1.0, -1.0])[None, :, None, None].expand(1, 2, 100, 100)
    shares = torch.softmax(quantizer.proj(z[:, :, :1, :1]).flatten(), 0)
    for step in (0, 200_000):  # at any temperature
        quantizer.anneal(step)
        counts = torch.bincount(quantizer(z).indices.flatten(), minlength=4)
        torch.testing.assert_close(counts / 10_000, shares.detach(), atol=0.02, rtol=0)
    assert quantizer.eval()(z).indices.unique().tolist() == [shares.argmax().item()]


def test_gumbel_loses_the_divergence_from_the_uniform_distribution() -> None:
    torch.manual_seed(0)
    quantizer, z = GumbelConfig(codebook_size=6, kl_weight=0.5).build(4), latents()
    shares = torch.softmax(quantizer.proj(z).double(), 1)
    expected = 0.5 * (shares * torch.log(6 * shares)).sum(1).mean()
    assert quantizer(z).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_simvq_moves_all_codes_by_one_matrix() -> None:
    torch.manual_seed(0)
    quantizer, z = SimVQConfig(codebook_size=16).build(4), latents()
    book = (quantizer.frozen @ quantizer.projection.weight.T).detach()
    assert torch.equal(quantizer(z).indices.flatten(), torch.cdist(as_rows(z), book.double()).argmin(1))
    assert [name for name, _ in quantizer.named_parameters()] == ["projection.weight"]


def test_ibq_takes_the_largest_inner_product_and_teaches_every_code() -> None:
    torch.manual_seed(0)
    quantizer, z = IBQConfig(codebook_size=16, entropy=EntropyConfig(weight=0)).build(4), latents()
    torch.nn.init.normal_(quantizer.embedding.weight)
    book, rows = quantizer.embedding.weight.detach().double().requires_grad_(), as_rows(z)
    affinities = rows @ book.T
    hard = F.one_hot(affinities.argmax(1), 16).double()
    soft = hard + affinities.softmax(1) - affinities.softmax(1).detach()
    slope = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (soft @ book * slope).sum().backward()
    quantized = quantizer(z)
    (as_rows(quantized.features) * slope).sum().backward()
    assert torch.equal(quantized.indices.flatten(), affinities.argmax(1))
    torch.testing.assert_close(quantizer.embedding.weight.grad.double(), book.grad, rtol=1e-4, atol=1e-5)
    assert (quantizer.embedding.weight.grad.abs().sum(1) > 0).all()
    gap = (rows - (hard @ book)).square().mean().item()
    assert quantized.loss.item() == pytest.approx(2.25 * gap, rel=1e-5)


def test_ibq_entropies_are_those_of_its_softmax() -> None:
    torch.manual_seed(0)
    entropy = EntropyConfig(weight=0.3, per_sample_weight=2.0, batch_weight=0.5, temperature=0.7)
    quantizer, z = IBQConfig(codebook_size=8, codebook_weight=0.0, entropy=entropy).build(4), latents()
    torch.nn.init.normal_(quantizer.embedding.weight)
    shares = (as_rows(z) @ quantizer.embedding.weight.detach().double().T / 0.7).softmax(1)
    each = -(shares * shares.log()).sum(1).mean()
    flat = -(shares.mean(0) * shares.mean(0).log()).sum()
    assert quantizer(z).loss.item() == pytest.approx(0.3 * (2 * each - 0.5 * flat).item(), rel=1e-5)
    assert quantizer.eval()(z).loss.item() == 0


@pytest.mark.parametrize(
    ("config", "within"),
    [
        (VQConfig(codebook_size=512, codebook_init="uniform"), (1 / 512, 1 / 512 / 3**0.5)),  # U(-1/K, 1/K)
        (EMAConfig(codebook_size=512, codebook_init="normal"), (6.0, 1.0)),  # as torch.randn
        (CosineConfig(codebook_size=512, codebook_init="uniform"), (1.0, 0.5)),  # of unit length in 4 dimensions
    ],
)
def test_a_codebook_can_start_as_it_is_drawn(config, within):
    torch.manual_seed(0)
    quantizer = config.build(4)
    assert not quantizer.starts_from_features and type(config)().build(4).starts_from_features
    book, (bound, deviation) = quantizer.embedding.weight.detach(), within
    assert book.abs().max() <= bound and book.std().item() == pytest.approx(deviation, rel=0.05)
