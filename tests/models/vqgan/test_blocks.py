"""The blocks against the same mathematics written another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.models.vqgan.blocks import (
    BlockConfig,
    DownBlock,
    Downsample,
    Padding,
    ResidualBlock,
    SpatialAttention,
    UpBlock,
    Upsample,
)


def group_normalized(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm by hand: every 32nd of the channels has mean 0 and variance 1."""
    groups = x.reshape(x.shape[0], 32, -1)
    centerd = groups - groups.mean(2, keepdim=True)
    scaled = centerd / torch.sqrt((centerd**2).mean(2, keepdim=True) + 1e-6)
    return scaled.reshape(x.shape) * norm.weight[None, :, None, None] + norm.bias[None, :, None, None]


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def shaken(module: nn.Module) -> nn.Module:
    """The module in float64, with no parameter left at an innocent 0 or 1."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.double()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_residual_block_is_norm_swish_convolution_twice_plus_the_input() -> None:
    block = shaken(ResidualBlock(32, 64))
    x = noise(2, 32, 6, 5)
    h = F.conv2d(swish(group_normalized(x, block.norm1)), block.conv1.weight, block.conv1.bias, padding=1)
    h = F.conv2d(swish(group_normalized(h, block.norm2)), block.conv2.weight, block.conv2.bias, padding=1)
    carried = torch.einsum("oc,bchw->bohw", block.nin_shortcut.weight[:, :, 0, 0], x)
    torch.testing.assert_close(block(x), h + carried + block.nin_shortcut.bias[None, :, None, None])


def test_residual_block_of_one_width_has_no_shortcut_weights() -> None:
    assert not any(name.startswith("nin_shortcut") for name in ResidualBlock(32, 32).state_dict())


def test_attention_is_a_softmax_over_all_places_of_the_grid() -> None:
    block = shaken(SpatialAttention(32))
    x = noise(2, 32, 3, 4)
    normed = group_normalized(x, block.norm).reshape(2, 32, 12)

    def projected(layer: nn.Conv2d, value: Tensor) -> Tensor:
        return torch.einsum("oc,bcn->bon", layer.weight[:, :, 0, 0], value) + layer.bias[None, :, None]

    q, k, v = (projected(layer, normed) for layer in (block.q, block.k, block.v))
    scores = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(32)
    attended = torch.einsum("bij,bcj->bci", torch.exp(scores) / torch.exp(scores).sum(2, keepdim=True), v)
    torch.testing.assert_close(block(x), x + projected(block.proj_out, attended).reshape(x.shape))


def test_downsampling_pads_on_the_right_and_at_the_bottom_only() -> None:
    down = Downsample(1)
    down.conv.weight.data = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    down.conv.bias.data.zero_()
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1  # the first window begins here: its first weight
    x[0, 0, 3, 3] = 10  # the last window begins at (2, 2), so this is its middle, whose weight is 5
    torch.testing.assert_close(down(x)[0, 0], torch.tensor([[1.0, 0.0], [0.0, 50.0]]))


def test_replicating_convolutions_see_the_border_once_more() -> None:
    """The same as unpadded convolutions of an image that was made larger beforehand."""
    block = shaken(ResidualBlock(32, 64, padding="replicate"))
    x = noise(2, 32, 6, 5)

    def larger(x: Tensor, left: int = 1) -> Tensor:
        rows, columns = (torch.arange(-left, side + 1).clamp(0, side - 1) for side in x.shape[2:])
        return x[:, :, rows][:, :, :, columns]

    h = F.conv2d(larger(swish(group_normalized(x, block.norm1))), block.conv1.weight, block.conv1.bias)
    h = F.conv2d(larger(swish(group_normalized(h, block.norm2))), block.conv2.weight, block.conv2.bias)
    torch.testing.assert_close(block(x), h + block.nin_shortcut(x))
    down, up = shaken(Downsample(32, "replicate")), shaken(Upsample(32, "replicate"))
    x = noise(2, 32, 6, 4)
    torch.testing.assert_close(down(x), F.conv2d(larger(x, left=0), down.conv.weight, down.conv.bias, stride=2))
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(up(x), F.conv2d(larger(doubled), up.conv.weight, up.conv.bias))


def test_upsampling_repeats_every_place_twice_each_way() -> None:
    up = Upsample(1)
    nn.init.dirac_(up.conv.weight)
    up.conv.bias.data.zero_()
    expected = torch.tensor([[[[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]])
    torch.testing.assert_close(up(torch.tensor([[[[1.0, 2], [3, 4]]]])), expected)


def test_levels_put_attention_after_every_block_and_resample_last() -> None:
    x = torch.randn(1, 32, 4, 4)
    for level, size in (
        (DownBlock(32, 64, 2, BlockConfig(attention=True), halve=True), 2),
        (UpBlock(32, 64, 2, BlockConfig(attention=True), double=True), 8),
    ):
        assert len(level.attn) == len(level.block) == 2
        assert level(x).shape == (1, 64, size, size)


def test_checkpointed_blocks_give_the_same_gradients_with_dropout_on() -> None:
    plain = DownBlock(32, 32, 2, BlockConfig(dropout=0.5, attention=True), halve=True)
    saving = DownBlock(32, 32, 2, BlockConfig(dropout=0.5, attention=True, checkpointed=True), halve=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 32, 4, 4)
    gradients = []
    for level in (plain, saving):
        torch.manual_seed(7)
        level(x).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in level.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_blocks_keep_the_channels_last_layout(padding: Padding) -> None:
    style = BlockConfig(attention=True, padding=padding)
    level = DownBlock(32, 64, 1, style, halve=True).to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 4, 4).contiguous(memory_format=torch.channels_last)
    assert level(x).is_contiguous(memory_format=torch.channels_last)
