"""The autoencoder: its shape, its names, what goes in and what comes out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from smalti.models.quantizers import FSQConfig, VQConfig
from smalti.models.vqgan.autoencoder import VQGANConfig
from smalti.models.vqgan.blocks import Padding

TINY = VQGANConfig(
    channels=32, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(16,), resolution=32,
    z_channels=32, embed_dim=8, quantizer=VQConfig(codebook_size=16),
)  # fmt: skip


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_published_factor_16_model_has_its_72_million_parameters() -> None:
    with torch.device("meta"):
        model = VQGANConfig(quantizer=VQConfig(codebook_size=1024)).build()
    assert sum(parameter.numel() for parameter in model.parameters()) == 72_141_699


def test_names_and_shapes_are_those_of_the_released_checkpoints() -> None:
    with torch.device("meta"):
        weights = VQGANConfig(quantizer=VQConfig(codebook_size=1024)).build().state_dict()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    expected = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.4.attn.1.proj_out.weight": (512, 512, 1, 1),
        "encoder.down.3.downsample.conv.weight": (256, 256, 3, 3),
        "encoder.mid.attn_1.norm.weight": (512,),
        "encoder.conv_out.weight": (256, 512, 3, 3),
        "decoder.conv_in.weight": (512, 256, 3, 3),
        "decoder.up.4.attn.2.q.weight": (512, 512, 1, 1),
        "decoder.up.1.upsample.conv.bias": (128,),
        "decoder.up.3.block.0.nin_shortcut.weight": (256, 512, 1, 1),
        "decoder.conv_out.weight": (3, 128, 3, 3),
        "quant_conv.weight": (256, 256, 1, 1),
        "post_quant_conv.bias": (256,),
        "quantize.embedding.weight": (1024, 256),
    }
    assert expected.items() <= shapes.items()
    assert len(shapes) == 343 + 1  # the reference's, and our counter of idle steps
    assert "decoder.up.0.upsample.conv.weight" not in shapes
    assert "encoder.down.4.downsample.conv.weight" not in shapes


def test_any_image_whose_sides_are_multiples_of_the_factor_is_rebuilt_at_its_size() -> None:
    out = TINY.build()(images(2, 3, 32, 48))
    assert out.reconstruction.shape == (2, 3, 32, 48)
    assert out.features.shape == (2, 32, 32, 48)
    assert out.latents.shape == out.quantized.features.shape == (2, 8, 16, 24)
    assert out.quantized.indices.shape == (2, 16, 24)
    assert out.quantized.indices.dtype == torch.int64


def test_sides_that_are_no_multiples_of_the_factor_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"multiples of the factor 2, got 33 x 48; crop to 32 x 48"):
        TINY.build()(images(1, 3, 33, 48))


def test_features_are_the_input_of_the_last_layer() -> None:
    model = TINY.build()
    out = model(images(1, 3, 16, 16))
    torch.testing.assert_close(model.last_layer(out.features), out.reconstruction)
    assert model.last_layer is model.decoder.conv_out


def test_codes_alone_bring_back_what_the_features_of_the_codes_bring_back() -> None:
    model = TINY.build().eval()
    quantized = model.encode(images(2, 3, 16, 16))
    torch.testing.assert_close(model.decode_codes(quantized.indices), model.decode(quantized.features))
    assert torch.equal(model(images(2, 3, 16, 16)).quantized.indices, quantized.indices)


def test_the_encoder_learns_through_the_codes() -> None:
    model = TINY.build()
    model(images(1, 3, 16, 16)).reconstruction.square().sum().backward()
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0


def test_a_network_of_maps_is_a_network_of_one_hot_images() -> None:
    torch.manual_seed(0)
    of_maps = replace(TINY, num_labels=5).build()
    of_images = replace(TINY, in_channels=5, out_channels=5).build()
    of_images.load_state_dict(of_maps.state_dict())
    maps = torch.randint(5, (2, 16, 16), dtype=torch.uint8)
    one_hot = F.one_hot(maps.long(), 5).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(of_maps(maps).reconstruction, of_images(one_hot).reconstruction)


def test_a_place_without_a_label_is_a_zero_for_every_label() -> None:
    model = replace(TINY, num_labels=5).build()
    seen = []
    model.encoder.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = torch.zeros(1, 16, 16, dtype=torch.uint8)
    maps[0, 3, 4] = 255
    model(maps)
    assert seen[0].sum() == 16 * 16 - 1
    assert seen[0][0, :, 3, 4].abs().sum() == 0


@pytest.mark.parametrize(("padding", "framed"), [("replicate", False), ("zeros", True)])
@pytest.mark.parametrize("norm_groups", [0, 32])
def test_an_image_of_one_color_is_rebuilt_without_a_frame(padding: Padding, framed: bool, norm_groups: int) -> None:
    """As well at the border as inside, encoded and decoded; zeros beyond the border leave a frame."""
    torch.manual_seed(0)
    shape = {"channel_multipliers": (1, 2, 2), "norm_groups": norm_groups, "padding": padding}
    model = replace(TINY, **shape).build().double().eval()
    for name, parameter in model.named_parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape) * ("quantize" not in name)
    color = torch.tensor([0.6, -0.3, 0.1], dtype=torch.float64)[None, :, None, None]
    with torch.no_grad():
        latents = model.latents(color.expand(1, 3, 32, 40))
        rebuilt = model.decode_codes(torch.full((1, 8, 10), 3))
        small = model.decode_codes(torch.full((1, 1, 1), 3))  # of one code, whose every side is a border
    for grid in (latents, rebuilt):
        frame = (grid - grid[:, :, 4:5, 4:5]).abs()
        assert frame.amax() > 1e-3 if framed else frame.amax() < 1e-9
    assert torch.allclose(small, rebuilt[..., :4, :4]) is not framed


def test_attention_sits_where_the_nominal_resolution_says() -> None:
    with torch.device("meta"):
        names = VQGANConfig(attention_resolutions=(32,), mid_attention=False).build().state_dict()
    levels = {name.rsplit(".attn", 1)[0] for name in names if ".attn" in name}
    assert levels == {"encoder.down.3", "decoder.up.3"}


def test_bfloat16_weights_take_float32_images() -> None:
    model = TINY.build().bfloat16()
    out = model(images(1, 3, 16, 16))
    assert out.reconstruction.dtype == torch.bfloat16
    assert out.quantized.loss.dtype == torch.float32
    assert model.decode_codes(out.quantized.indices).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 48}, "multiple of norm_groups"),
        ({"channel_multipliers": ()}, "channel_multipliers must name"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1"),
        ({"num_labels": 256}, "num_labels must lie in 2 to 255"),
        ({"quantizer": FSQConfig(levels=(8, 6, 5))}, "embed_dim must be 3 for this fsq quantizer, got 8"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_without_norms_a_signal_keeps_its_size_and_a_tint_comes_through() -> None:
    torch.manual_seed(0)
    config = VQGANConfig(
        channels=16, norm_groups=0, channel_multipliers=(1, 2, 4), num_res_blocks=1, attention_resolutions=(),
        mid_attention=False, resolution=32, z_channels=32, embed_dim=8,
    )  # fmt: skip
    model = config.build()

    assert not [layer for layer in model.modules() if isinstance(layer, torch.nn.GroupNorm)]
    noise = model.latents(torch.randn(4, 3, 32, 32))
    assert 0.1 < noise.std() < 10
    gray = model.latents(torch.zeros(1, 3, 32, 32))
    tinted = model.latents(torch.full((1, 3, 32, 32), 0.5))
    assert (gray - tinted).abs().mean() > 0.05
