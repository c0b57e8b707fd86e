"""Quantizers without a codebook: FSQ and LFQ by hand."""

import itertools
import math

import pytest
import torch

from smalti.models.quantizers import EntropyConfig, FSQConfig, LFQConfig


def test_fsq_codes_are_numbers_in_mixed_base_first_channel_fastest() -> None:
    quantizer = FSQConfig(levels=(8, 6, 5)).build(3)
    z = torch.full((1, 3, 1, 2), 50.0)
    z[..., 1] = torch.tensor([0.0, -50.0, 0.0])[:, None]
    # All at the top: 7 + 8 * 5 + 48 * 4 = 239, the last of 240. Middle, bottom, middle: 4 + 8 * 0 + 48 * 2 = 100.
    quantized = quantizer(z)
    assert quantized.indices.flatten().tolist() == [239, 100]
    torch.testing.assert_close(quantized.features[0, :, 0, 0], torch.tensor([0.75, 2 / 3, 1.0]))
    torch.testing.assert_close(quantized.features[0, :, 0, 1], torch.tensor([0.0, -1.0, 0.0]))


def test_fsq_reaches_every_code_and_every_code_is_its_own() -> None:
    config = FSQConfig(levels=(4, 3, 2))
    quantizer = config.build(3)
    every = torch.arange(24).reshape(1, 4, 6)
    levels = quantizer.lookup(every)
    wanted = {c: sorted({(d - n // 2) / (n // 2) for d in range(n)}) for c, n in enumerate(config.levels)}
    for channel, expected in wanted.items():
        assert levels[0, channel].unique().tolist() == pytest.approx(expected)
    # Far out on either side lie the outermost levels, near 0 the middle ones.
    reached = {
        quantizer(torch.tensor(point)[None, :, None, None]).indices.item()
        for point in itertools.product((-9.0, -0.5, 0.2, 9.0), repeat=3)
    }
    assert reached == set(range(24))


def test_fsq_bounds_as_the_paper_does_and_passes_gradient_through_the_rounding() -> None:
    quantizer = FSQConfig(levels=(5, 4)).build(2)
    z = torch.tensor([0.3, 0.3], dtype=torch.float32)[None, :, None, None].requires_grad_()
    quantizer(z).features.sum().backward()

    def slope(levels: int) -> float:
        reach = (levels - 1) * 1.001 / 2
        shift = math.atanh(0.5 / reach) if levels % 2 == 0 else 0.0
        return reach / math.cosh(0.3 + shift) ** 2 / (levels // 2)

    assert z.grad.flatten().tolist() == pytest.approx([slope(5), slope(4)], rel=1e-5)


def test_lfq_codes_are_binary_numbers_lowest_bit_first() -> None:
    quantizer = LFQConfig(bits=4).build(4).eval()
    z = torch.tensor([0.5, -2.0, 0.1, 3.0])[None, :, None, None]
    quantized = quantizer(z)
    assert quantized.indices.item() == 1 + 4 + 8
    assert quantized.features.flatten().tolist() == [1, -1, 1, 1]
    # Commitment alone: 0.25 * mean(0.5^2, 1, 0.9^2, 2^2).
    assert quantized.loss.item() == pytest.approx(0.25 * (0.25 + 1 + 0.81 + 4) / 4)


@pytest.mark.parametrize("bits", [2, 5])
def test_lfq_entropies_are_those_of_a_softmax_over_all_codes(bits: int) -> None:
    entropy = EntropyConfig(weight=1.5, per_sample_weight=2.0, batch_weight=0.5, temperature=0.8)
    quantizer = LFQConfig(bits=bits, commitment_weight=0.0, entropy=entropy).build(bits)
    z = torch.randn(2, bits, 3, 3, generator=torch.Generator().manual_seed(0))
    rows = z.movedim(1, -1).reshape(-1, bits).double()
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)), dtype=torch.float64)
    shares = (2 * rows @ codes.T / 0.8).softmax(1)  # -|z - c|^2 / temperature up to what all codes share
    each = -(shares * shares.log()).sum(1).mean()
    flat = -(shares.mean(0) * shares.mean(0).log()).sum()
    assert quantizer(z).loss.item() == pytest.approx(1.5 * (2 * each - 0.5 * flat).item(), rel=1e-5)


def test_lfq_entropy_gradient_is_finite_where_bits_are_sure() -> None:
    z = torch.full((1, 4, 2, 2), 40.0, requires_grad=True)
    LFQConfig(bits=4).build(4)(z).loss.backward()
    assert z.grad.isfinite().all()


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 3 channels, got 4"):
        FSQConfig(levels=(8, 6, 5)).build(4)
    with pytest.raises(ValueError, match="takes 4 channels, got 3"):
        LFQConfig(bits=4).build(3)
    with pytest.raises(ValueError, match="at least 2 steps"):
        FSQConfig(levels=(8, 1))
    with pytest.raises(ValueError, match="bits must lie in 2 to 24"):
        LFQConfig(bits=30)
