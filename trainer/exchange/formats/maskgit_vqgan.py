"""MaskGIT's tokenizer (Chang et al. 2022) as open-muse and 1d-tokenizer hold it.

Its network is the published one without attention, and without some parts that have exact equals there:

    convolutions without biases            biases of zeros
    averages of 2 x 2 pixels               a strided convolution with a quarter at four places
    a last convolution of 1 x 1            one of 3 x 3 with zeros around it
    no convolution beside the codebook     the identity
    one residual block less a level        one whose second convolution is zeros
    images in [0, 1]                       ``input_range: unit``, and the decoder's last convolution doubled, less one

Where a residual block changes the width, its shortcut carries the block's own result, not its input: h + W h. That is
one convolution, (1 + W) times the block's second, beside a shortcut of zeros; the product is rounded to float32 once.

Shapes: O output and I input channels of a convolution.
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ....models.quantizers import VQConfig
from ....models.vqgan.autoencoder import VQGANConfig
from ..networks import Network, vqgan_metadata
from ..sources.ledger import Ledger, Shapes, numbered
from ..vqgan_shapes import NOMINAL, network_shapes

MARK = "decoder.up.1.upsample_conv.weight"


def vqgan(ledger: Ledger) -> Network:
    """The tokenizer.

    Raises:
        ValueError: the tensors are of another network.
    """
    shapes = ledger.shapes()
    config = _config(shapes, ledger.source)
    wanted = network_shapes(config)
    names = {ours: _name(ours) for ours in wanted}
    there = {ours: theirs for ours, theirs in names.items() if theirs in shapes}
    widened = {ours: _their_shape(ours, wanted[ours]) for ours in there}
    found = ledger.fill(widened, there, "autoencoder")
    made = {ours: _made(ours, shape, found) for ours, shape in wanted.items()}
    missing = [names[ours] for ours, tensor in made.items() if tensor is None]
    if missing:
        raise ValueError(f"{ledger.source} lacks {', '.join(missing[:5])}, which this autoencoder has")
    weights = {ours: tensor for ours, tensor in made.items() if tensor is not None}
    weights["decoder.conv_out.weight"] *= 2
    weights["decoder.conv_out.bias"] = weights["decoder.conv_out.bias"] * 2 - 1
    weights["quantize.idle"] = torch.zeros(config.codebook_size, dtype=torch.int64)
    return Network(weights, vqgan_metadata(config))


def _config(shapes: Shapes, source: str) -> VQGANConfig:
    wanted = ("encoder.conv_in.weight", "encoder.conv_out.weight", "quantize.embedding.weight")
    if any(len(shapes.get(name, ())) != dimensions for name, dimensions in zip(wanted, (4, 4, 2), strict=True)):
        raise ValueError(f"{source} lacks one of {', '.join(wanted)}, which MaskGIT's tokenizer has")
    channels, inputs = shapes["encoder.conv_in.weight"][:2]
    levels = numbered(shapes, r"encoder\.down\.(\d+)\.")
    widths = [shapes.get(f"encoder.down.{level}.block.0.conv1.weight", (0,))[0] for level in range(levels)]
    middle = numbered(shapes, r"encoder\.mid\.(\d+)\.")
    if not channels or not widths or any(not width or width % channels for width in widths) or middle != 2:
        raise ValueError(
            f"{source}: levels {widths} wide and {middle} blocks in the middle are no tokenizer of MaskGIT's, with two"
        )
    size, width = shapes["quantize.embedding.weight"]
    return VQGANConfig(
        in_channels=inputs,
        out_channels=inputs,
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_res_blocks=numbered(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        attention_resolutions=(),
        mid_attention=False,
        resolution=max(NOMINAL, 2**levels),
        z_channels=width,
        embed_dim=width,
        input_range="unit",
        quantizer=VQConfig(codebook_size=size, legacy_beta=True),
    )


def _name(ours: str) -> str:
    """What a tensor of ours is called there, if it is there."""
    name = re.sub(r"\.mid\.block_([12])\.", lambda number: f".mid.{int(number[1]) - 1}.", ours)
    return re.sub(r"\.upsample\.conv\.", ".upsample_conv.", name)


def _their_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if ours == "encoder.conv_out.weight":
        return (*shape[:2], 1, 1)
    return (shape[0], shape[0], 1, 1) if ours.endswith("nin_shortcut.weight") else shape


def _made(ours: str, shape: tuple[int, ...], found: Mapping[str, Tensor]) -> Tensor | None:
    """A tensor of ours from what there is; None where there must be one and is not."""
    block, part = ours.rsplit(".", 2)[0], ".".join(ours.rsplit(".", 2)[1:])
    if part.startswith("nin_shortcut."):
        return torch.zeros(shape)
    if ours == "encoder.conv_out.weight" and ours in found:
        return F.pad(found[ours], (1, 1, 1, 1))
    if part == "conv2.weight" and f"{block}.nin_shortcut.weight" in found:
        return _carried(found[ours], found[f"{block}.nin_shortcut.weight"])
    if ours in found:
        return found[ours]
    if ".downsample.conv." in ours:
        return _average(shape) if part == "conv.weight" else torch.zeros(shape)
    if ours in ("quant_conv.weight", "post_quant_conv.weight"):
        return torch.eye(shape[0])[:, :, None, None]
    if re.match(r"decoder\.up\.\d+\.block\.", ours) and f"{block}.conv1.weight" not in found:
        return torch.ones(shape) if part in ("norm1.weight", "norm2.weight") else torch.zeros(shape)
    bare = re.search(r"(conv1|conv2|quant_conv|encoder\.conv_in)\.bias$", ours)
    return torch.zeros(shape) if bare else None


def _average(shape: tuple[int, ...]) -> Tensor:
    """The mean of 2 x 2 pixels as an (O, O, 3, 3) convolution of stride 2 that is padded to the right and below."""
    weight = torch.zeros(shape)
    weight[:, :, :2, :2] = 0.25 * torch.eye(shape[0])[:, :, None, None]
    return weight


def _carried(second: Tensor, shortcut: Tensor) -> Tensor:
    """(O, I, 3, 3) of h + W h for the h that a convolution gives and a (O, O, 1, 1) shortcut W; computed in float64."""
    both = torch.eye(len(shortcut), dtype=torch.float64) + shortcut[:, :, 0, 0].double()
    return torch.einsum("po,oixy->pixy", both, second.double()).float()
