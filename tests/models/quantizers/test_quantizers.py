"""What every quantizer of the union promises. A new one is tested by being listed there."""

from dataclasses import fields
from typing import get_args

import pytest
import torch
from torch import Tensor

from smalti.models.quantizers import (
    FSQConfig,
    LFQConfig,
    Quantizer,
    QuantizerConfig,
    RollingUse,
    perplexity,
    usage,
)
from smalti.models.quantizers.usage import USE_OCTAVES


def small(config: type[QuantizerConfig]) -> QuantizerConfig:
    """Of some 60 codes."""
    if config is FSQConfig:
        return FSQConfig(levels=(5, 4, 3))
    if config is LFQConfig:
        return LFQConfig(bits=6)
    return config(codebook_size=60)


def build(config: QuantizerConfig) -> Quantizer:
    torch.manual_seed(0)
    return config.build(config.dimension or 8)


def latents(config: QuantizerConfig, seed: int = 0) -> Tensor:
    return torch.randn(2, config.dimension or 8, 5, 7, generator=torch.Generator().manual_seed(seed))


every = pytest.mark.parametrize("config", [small(kind) for kind in get_args(QuantizerConfig)], ids=lambda c: c.kind)


@every
def test_codes_stand_on_the_grid_of_the_features(config: QuantizerConfig) -> None:
    z = latents(config)
    quantized = build(config)(z)
    assert quantized.features.shape == z.shape
    assert quantized.indices.shape == (2, 5, 7)
    assert quantized.indices.dtype == torch.int64
    assert quantized.indices.min() >= 0
    assert quantized.indices.max() < config.codebook_size
    assert quantized.indices.unique().numel() > 4
    assert quantized.loss.shape == ()


@every
def test_looking_up_a_code_gives_the_features_it_stands_for(config: QuantizerConfig) -> None:
    quantizer = build(config).eval()
    quantized = quantizer(latents(config))
    torch.testing.assert_close(quantizer.lookup(quantized.indices), quantized.features)


@every
def test_the_same_place_gets_the_same_code_wherever_it_stands(config: QuantizerConfig) -> None:
    quantizer = build(config).eval()
    z = latents(config)
    straight, turned = quantizer(z).indices, quantizer(z.flip(0).transpose(2, 3)).indices
    assert torch.equal(straight, turned.transpose(1, 2).flip(0))


@every
def test_gradient_reaches_features_and_every_parameter(config: QuantizerConfig) -> None:
    quantizer, z = build(config), latents(config).requires_grad_()
    quantized = quantizer(z)
    (quantized.features.square().sum() + quantized.loss).backward()
    assert z.grad.abs().sum() > 0
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every
def test_features_keep_their_type_and_losses_are_float32(config: QuantizerConfig) -> None:
    quantizer = build(config).bfloat16()
    quantized = quantizer(latents(config).bfloat16())
    assert quantized.features.dtype == torch.bfloat16
    assert quantized.loss.dtype == torch.float32
    assert all(buffer.dtype != torch.bfloat16 for buffer in quantizer.buffers())


@every
def test_autocast_leaves_the_choice_of_codes_alone(config: QuantizerConfig) -> None:
    if config.kind == "gumbel":
        pytest.skip("its codes come from a convolution, which autocast is meant to reach")
    quantizer, z = build(config).eval(), latents(config)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = quantizer(z).indices
    assert torch.equal(rounded, quantizer(z).indices)


@every
def test_observed_counts_add_up_and_tell_the_use_of_the_codes(config: QuantizerConfig) -> None:
    quantizer, z = build(config), latents(config)
    indices = quantizer(z).indices
    counts = quantizer.code_statistics(z, indices).counts
    assert counts.tolist() == [(indices == code).sum() for code in range(config.codebook_size)]
    shares = counts[counts > 0].double() / 70
    assert perplexity(counts).item() == pytest.approx(2 ** -(shares * shares.log2()).sum().item())
    assert usage(counts).item() == pytest.approx(indices.unique().numel() / config.codebook_size)


@every
def test_upkeep_is_the_same_on_every_rank(config: QuantizerConfig) -> None:
    quantizers = [build(config), build(config)]
    z, candidates = latents(config), torch.randn(200, config.dimension or 8)
    indices, found = quantizers[0](z).indices, []
    for rank, quantizer in enumerate(quantizers):
        torch.manual_seed(rank)  # ranks differ in their global generators
        book = quantizer.init_codebook(candidates, seed=3)
        observed = quantizer.code_statistics(z, indices)
        found.append([book, quantizer.post_step_update(observed, candidates, seed=4), *quantizer.state_dict().values()])
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@every
def test_a_state_dict_brings_back_the_quantizer(config: QuantizerConfig) -> None:
    quantizer = build(config).eval()
    torch.manual_seed(9)
    other = config.build(config.dimension or 8).eval()
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(latents(config)).features, quantizer(latents(config)).features)


@pytest.mark.parametrize(
    "kind", [kind for kind in get_args(QuantizerConfig) if "codes" in {f.name for f in fields(kind)}]
)
def test_a_codebook_of_one_code_is_refused(kind: type[QuantizerConfig]) -> None:
    with pytest.raises(ValueError, match="codebook_size must be at least 2, got 1"):
        kind(codebook_size=1)


def test_rolling_use_forgets_what_lies_behind_its_window() -> None:
    use = RollingUse(codes=4, window=2)
    assert (use.usage().item(), use.perplexity().item()) == (0.0, 1.0)
    use.update(torch.tensor([8.0, 0, 0, 0]))
    use.update(torch.tensor([0.0, 4, 0, 0]))
    assert use.usage().item() == 0.5
    assert use.perplexity().item() == pytest.approx(2)  # the older 8 count half by now
    use.update(torch.tensor([0.0, 4, 0, 0]))
    assert use.usage().item() == 0.25


def test_a_histogram_of_use_has_a_bin_for_what_was_not_chosen_and_half_octaves_around_uniform_use() -> None:
    use = RollingUse(codes=4, window=10)
    assert use.histogram()[0] == 4 and use.dead() == 4
    use.update(torch.tensor([0.0, 1, 4, 3]))  # of 8: uniform use is 2, so these are 0, 1/2, 2 and 3/2 of it
    found = use.histogram()
    assert found.sum() == 4 and use.dead() == 1
    uniform = 1 + 2 * USE_OCTAVES  # of the bin that begins at uniform use
    assert found.nonzero().flatten().tolist() == [0, uniform - 2, uniform + 1, uniform + 2]


def test_use_far_from_uniform_is_in_the_outer_bins() -> None:
    use = RollingUse(codes=4096, window=10**6)
    counts = torch.ones(4096)
    counts[0], counts[1] = 1e12, 0.0
    use.update(counts)
    found = use.histogram()
    assert (found[0], found[1], found[-1]) == (1, 4094, 1) and found.sum() == 4096


def test_perplexity_counts_equally_used_codes() -> None:
    assert perplexity(torch.tensor([5.0, 5.0, 5.0, 0.0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([7.0, 0.0])).item() == 1
    assert perplexity(torch.zeros(4)).item() == 1
    assert usage(torch.tensor([5.0, 5.0, 5.0, 0.0])).item() == 0.75
