"""A mask-aware encoder: known codes depend on known pixels alone; no mask and a mask of everything are ordinary."""

import pytest
import torch
from torch import Tensor, nn

from smalti.models.quantizers import VQConfig
from smalti.models.vqgan import tiling
from smalti.models.vqgan.autoencoder import VQGAN, VQGANConfig
from smalti.models.vqgan.masking import RegionNorm, attention_mask, halved, masked_cells, masked_conv

SIDES = (32, 48)


def network(**settings: object) -> VQGAN:
    """A small mask-aware network with attention on two grids, no parameter left at an innocent 0 or 1."""
    shape = {
        "channels": 16, "norm_groups": 4, "channel_multipliers": (1, 2, 2), "num_res_blocks": 1, "resolution": 32,
        "attention_resolutions": (8,), "z_channels": 8, "embed_dim": 8, "quantizer": VQConfig(codebook_size=64),
        "mask_aware": True,
    }  # fmt: skip
    torch.manual_seed(0)
    model = VQGANConfig(**(shape | settings)).build().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    nn.init.normal_(model.quantize.embedding.weight)
    return model


def masks() -> dict[str, Tensor]:
    """(1, H, W) bool masks of many shapes."""
    empty = torch.zeros(1, *SIDES, dtype=torch.bool)
    found = {"nothing": empty, "everything": ~empty, "one pixel": empty.clone(), "thin": empty.clone()}
    found["one pixel"][0, 13, 21] = True
    found["thin"][0, :, 17] = True
    found["blob"] = empty.clone()
    found["blob"][0, 3:19, 10:30] = True
    found["border"] = empty.clone()
    found["border"][0, 29:, 44:] = True
    found["all but a cell"] = ~empty
    found["all but a cell"][0, 8:12, 40:44] = False
    return found


@pytest.mark.parametrize(("norm_groups", "padding"), [(4, "zeros"), (0, "zeros"), (0, "replicate")])
@pytest.mark.parametrize("name", list(masks()))
def test_known_codes_and_latents_do_not_change_in_any_bit_with_masked_pixels(
    name: str, norm_groups: int, padding: str
):
    model, masked = network(norm_groups=norm_groups, padding=padding), masks()[name]
    image = torch.randn(1, 3, *SIDES)
    other = torch.where(masked[:, None], torch.randn(1, 3, *SIDES) * 3, image)
    known = ~masked_cells(masked, model.config.factor)
    with torch.no_grad():
        one, two = (model.latents(each, masked) for each in (image, other))
        assert torch.isfinite(one).all() and torch.isfinite(two).all()
        assert torch.equal(one[known[:, None].expand_as(one)], two[known[:, None].expand_as(two)])
        codes = [tiling.encode(model, each, 4, 1, masked=masked) for each in (image, other)]
        codes += [model.encode(each, masked).indices for each in (image, other)]
    assert torch.equal(codes[0][known], codes[1][known]) and torch.equal(codes[2][known], codes[3][known])
    if name not in ("nothing", "everything"):
        assert not torch.equal(one, two)  # masked cells do see what lies below the mask


@pytest.mark.parametrize("name", ["nothing", "everything"])
def test_where_nothing_or_everything_is_masked_the_encoder_is_the_plain_one(name: str):
    model = network().double()
    plain = network(mask_aware=False).double()
    plain.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, *SIDES, dtype=torch.float64)
    with torch.no_grad():
        found = model.latents(image, masks()[name].expand(2, -1, -1))
        torch.testing.assert_close(found, plain.latents(image), rtol=0, atol=1e-12)
        assert torch.equal(model.latents(image), plain.latents(image))


def test_samples_of_one_batch_have_masks_of_their_own():
    model, image = network().double(), torch.randn(2, 3, *SIDES, dtype=torch.float64)
    both = torch.cat((masks()["blob"], masks()["thin"]))
    with torch.no_grad():
        together = model.latents(image, both)
        alone = torch.cat([model.latents(image[i : i + 1], both[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_known_places_are_normalized_by_known_places_alone():
    norm = RegionNorm(4, 16, eps=1e-6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 16, 6, 10, dtype=torch.float64) * 3 + 1
    masked = torch.zeros(2, 1, 6, 10, dtype=torch.bool)
    torch.testing.assert_close(norm(x, masked), norm(x), rtol=0, atol=1e-12)
    masked[0, :, :, 5:] = True
    masked[1] = True
    out = norm(x, masked)
    undone = (out - norm.bias[:, None, None]) / norm.weight[:, None, None]
    groups = undone[0, :, :, :5].reshape(4, -1)
    torch.testing.assert_close(groups.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(groups.std(1, unbiased=False), torch.ones(4).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(out[0, :, :, 5:], norm(x)[0, :, :, 5:])
    torch.testing.assert_close(out[1], norm(x)[1])  # nothing is known: the ordinary norm


def test_a_masked_convolution_is_two_convolutions():
    conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 7, 9)
    masked = torch.rand(2, 1, 7, 9) < 0.5
    expected = torch.where(masked, conv(x), conv(x * ~masked))
    torch.testing.assert_close(masked_conv(conv, x, masked), expected)


def test_a_cell_is_known_where_all_its_pixels_are_and_a_known_place_does_not_look_at_masked_ones():
    masked = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masked[..., 3, 7] = True
    assert halved(masked).nonzero().tolist() == [[0, 0, 1, 3]]
    assert masked_cells(masked, 4).nonzero().tolist() == [[0, 0, 0, 1]]
    assert torch.equal(halved(halved(masked)), masked_cells(masked, 4))
    allowed = attention_mask(torch.tensor([[[[False, True]]]]))
    assert allowed.tolist() == [[[[True, False], [True, True]]]]


def test_gradients_pass_through_a_masked_encoder_and_its_checkpoints():
    model = network(activation_checkpointing=True)
    out = model(torch.randn(1, 3, *SIDES), masks()["blob"])
    out.reconstruction.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.encoder.down.parameters())


def test_a_network_that_knows_no_masks_refuses_one_and_maps_have_none():
    with pytest.raises(ValueError, match=r"model\.mask_aware"):
        network(mask_aware=False).latents(torch.zeros(1, 3, *SIDES), masks()["thin"])
    with pytest.raises(ValueError, match="mask_aware"):
        network(num_labels=7)
    with pytest.raises(ValueError, match="shared statistics"):
        tiling.encode(network(), torch.zeros(1, 3, *SIDES), 4, 1, "shared", masks()["thin"])
