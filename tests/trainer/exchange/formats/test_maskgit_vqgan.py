"""MaskGIT's tokenizer gives the codes and images of an independent reading of its architecture."""

from itertools import pairwise

import pytest
import torch
from fixtures import published
from torch import nn
from torch.nn import functional

from smalti.launch import export, import_weights
from smalti.models.vqgan.exact_tiling import latents
from smalti.trainer.checkpoint.loading import load_tokenizer

CHANNELS, MULTIPLIERS, BLOCKS, WIDTH, CODES = 32, (1, 2, 2), 2, 8, 24


class Residual(nn.Module):
    """Norm, swish and convolution, twice; where the width changes, the shortcut is of the result."""

    def __init__(self, inside, outside):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inside, eps=1e-6), nn.GroupNorm(32, outside, eps=1e-6)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding="same", bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding="same", bias=False)
        if inside != outside:
            self.nin_shortcut = nn.Conv2d(outside, outside, 1, bias=False)

    def forward(self, x):
        result = self.conv2(functional.silu(self.norm2(self.conv1(functional.silu(self.norm1(x))))))
        return result + (self.nin_shortcut(result) if hasattr(self, "nin_shortcut") else x)


class Level(nn.Module):
    """Residual blocks, and on the way up a convolution behind the doubling."""

    def __init__(self, inside, outside, upsampled):
        super().__init__()
        self.block = nn.ModuleList(Residual(inside if n == 0 else outside, outside) for n in range(BLOCKS))
        if upsampled:
            self.upsample_conv = nn.Conv2d(outside, outside, 3, padding="same")


class Encoder(nn.Module):
    """Averages of four pixels between the levels; a last convolution of one pixel."""

    def __init__(self):
        super().__init__()
        widths = [CHANNELS * multiplier for multiplier in (1, *MULTIPLIERS)]
        self.conv_in = nn.Conv2d(3, CHANNELS, 3, padding="same", bias=False)
        self.down = nn.ModuleList(Level(a, b, False) for a, b in pairwise(widths))
        self.mid = nn.ModuleList(Residual(widths[-1], widths[-1]) for _ in range(BLOCKS))
        self.norm_out = nn.GroupNorm(32, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], WIDTH, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for number, level in enumerate(self.down):
            for block in level.block:
                x = block(x)
            if number < len(self.down) - 1:
                x = functional.avg_pool2d(x, 2)
        for block in self.mid:
            x = block(x)
        return self.conv_out(functional.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """The way back, lowest resolution first."""

    def __init__(self):
        super().__init__()
        widths = [CHANNELS * multiplier for multiplier in (*MULTIPLIERS, MULTIPLIERS[-1])]
        self.conv_in = nn.Conv2d(WIDTH, widths[-1], 3, padding="same")
        self.mid = nn.ModuleList(Residual(widths[-1], widths[-1]) for _ in range(BLOCKS))
        self.up = nn.ModuleList(Level(widths[n + 1], widths[n], n > 0) for n in range(len(MULTIPLIERS)))
        self.norm_out = nn.GroupNorm(32, CHANNELS, eps=1e-6)
        self.conv_out = nn.Conv2d(CHANNELS, 3, 3, padding="same")

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.mid:
            x = block(x)
        for number in reversed(range(len(self.up))):
            for block in self.up[number].block:
                x = block(x)
            if number:
                x = self.up[number].upsample_conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.conv_out(functional.silu(self.norm_out(x)))


class Tokenizer(nn.Module):
    """For images in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(CODES, WIDTH)


def made():
    """A tokenizer whose every tensor is random."""
    torch.manual_seed(0)
    network = Tokenizer().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            spread = 0.2 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(float(norm) + spread * torch.randn_like(parameter))
    return network


def test_codes_and_images_are_the_same(tmp_path):
    network, images = made(), torch.rand(2, 3, 24, 16)
    torch.save(network.state_dict(), tmp_path / "maskgit-vqgan-imagenet-f16-256.bin")
    source = str(tmp_path / "maskgit-vqgan-imagenet-f16-256.bin")
    assert import_weights.main([source, str(tmp_path / "in")]) == 0
    ours = load_tokenizer(tmp_path / "in", torch.device("cpu"))
    with torch.no_grad():
        features = network.encoder(images)
        codes = torch.cdist(features.permute(0, 2, 3, 1).flatten(0, 2), network.quantize.embedding.weight).argmin(1)
        codes = codes.view(2, 6, 4)
        rebuilt = network.decoder(network.quantize.embedding(codes).permute(0, 3, 1, 2))
        signed = images * 2 - 1
        assert len(codes.unique()) > 5 and torch.equal(ours.encode(signed), codes)
        torch.testing.assert_close(ours.model.latents(signed), features, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(ours.model.decode_codes(codes), rebuilt * 2 - 1, atol=2e-5, rtol=1e-5)
        tiled = latents(ours.model, signed, 2, kept_bytes=0)
        torch.testing.assert_close(tiled, features, atol=5e-5, rtol=1e-4)


def test_the_border_is_black_there_and_gray_in_other_networks(tmp_path):
    """What the option is for: with images in [-1, 1] other codes come out along the border."""
    config = published.VQGANConfig(channels=32, channel_multipliers=(1,), attention_resolutions=(), z_channels=8)
    signed = published.build(config)
    unit = published.VQGANConfig(
        channels=32, channel_multipliers=(1,), attention_resolutions=(), z_channels=8, input_range="unit"
    ).build()
    unit.load_state_dict(signed.state_dict())
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(unit.encoder.first(image * 2 - 1), signed.encoder.first(image))


@pytest.mark.parametrize("format_", ["diffusers", "taming"])
def test_formats_for_images_from_minus_one_to_one_are_refused(tmp_path, capsys, format_):
    torch.save(made().state_dict(), tmp_path / "w.bin")
    assert import_weights.main([str(tmp_path / "w.bin"), str(tmp_path / "in")]) == 0
    assert export.main([str(tmp_path / "in"), str(tmp_path / "out"), "--format", format_]) == 2
    error = capsys.readouterr().err
    assert ("turns them to [0, 1]" in error or "attention in the middle" in error) and not (tmp_path / "out").exists()


REFUSED = {
    "lacks decoder.mid.1.conv1.weight": lambda state: state.pop("decoder.mid.1.conv1.weight"),
    "lacks encoder.conv_out.bias": lambda state: state.pop("encoder.conv_out.bias"),
    "encoder.conv_out.weight is (8, 64, 3, 3) and should be (8, 64, 1, 1)": lambda state: state.update(
        {"encoder.conv_out.weight": torch.zeros(8, 64, 3, 3)}
    ),
    "3 blocks in the middle": lambda state: state.update({"encoder.mid.2.norm1.weight": torch.zeros(64)}),
    "1 tensors that no part of the network has: encoder.more": lambda state: state.update(
        {"encoder.more": torch.zeros(1)}
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_another_network_is_refused(tmp_path, capsys, sentence):
    state = made().state_dict()
    REFUSED[sentence](state)
    torch.save(state, tmp_path / "w.bin")
    assert import_weights.main([str(tmp_path / "w.bin"), str(tmp_path / "in")]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "in").exists()
