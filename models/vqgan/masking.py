"""How a mask-aware encoder keeps what is known apart from what is masked (ASSET, Liu et al. 2022, section 3.1).

A place that is not masked is computed from such places alone, layer by layer; a masked place sees everything. So the
codes of known pixels do not depend, in any bit, on what lies below the mask.

Shapes: B images, C channels, H rows, W columns. ``masked`` is (B, 1, H, W) bool, true where pixels are to be made anew.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..layers.channels_last_norm import group_norm as channels_last_group_norm
from ..layers.channels_last_norm import is_channels_last


def halved(masked: Tensor) -> Tensor:
    """The mask at half the resolution: a place is known where all four that it covers are."""
    return masked_cells(masked, 2)


def masked_cells(masked: Tensor, factor: int) -> Tensor:
    """(..., H, W) bool pixels to (..., H / factor, W / factor): the cells of which at least one pixel is masked."""
    return reduce(masked, "... (h fh) (w fw) -> ... h w", torch.amax, fh=factor, fw=factor)


def masked_conv(
    conv: Callable[[Tensor], Tensor], x: Tensor, masked: Tensor | None, masked_out: Tensor | None = None
) -> Tensor:
    """A convolution in two streams: known places see zeros below the mask, masked places see everything.

    Args:
        conv: of (B, C, H, W), padded by itself: beyond a border lie zeros, or copies of what its stream sees there.
        masked: at the resolution of the input; None for the plain convolution.
        masked_out: at that of the output, by default the same.
    """
    if masked is None:
        return conv(x)
    whole, known = conv(x), conv(torch.where(masked, 0.0, x))  # one after the other: a batch of both is a copy of both
    return torch.where(masked if masked_out is None else masked_out, whole, known)


def attention_mask(masked: Tensor) -> Tensor:
    """(B, 1, H * W, H * W) bool, true where a query may look: known places do not look at masked ones."""
    flat = rearrange(masked, "b 1 h w -> b 1 (h w)")
    return flat[..., :, None] | ~flat[..., None, :]


class RegionNorm(nn.GroupNorm):
    """GroupNorm; with a mask, known places are normalized by the statistics of known places alone.

    Masked places get the ordinary GroupNorm over everything. Both share one scale and shift.
    """

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to the same shape."""
        whole = self._whole(x)
        if masked is None:
            return whole
        known = ~masked
        groups = rearrange(x, "b (g c) h w -> b g c h w", g=self.num_groups)
        groups = groups.to(torch.promote_types(x.dtype, torch.float32))
        places = known[:, None]  # (B, 1, 1, H, W)
        count = (places.sum(dim=(2, 3, 4), keepdim=True) * groups.shape[2]).clamp(min=1)
        mean = groups.masked_fill(~places, 0.0).sum(dim=(2, 3, 4), keepdim=True) / count
        centered = groups - mean
        variance = centered.square().masked_fill(~places, 0.0).sum(dim=(2, 3, 4), keepdim=True) / count
        normed = rearrange(centered * (variance + self.eps).rsqrt(), "b g c h w -> b (g c) h w")
        normed = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return torch.where(known, normed.to(whole.dtype), whole)

    def _whole(self, x: Tensor) -> Tensor:
        if x.is_cuda and is_channels_last(x) and not torch.compiler.is_compiling():  # a compiler keeps it by itself
            return channels_last_group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Unchanged(nn.Identity):
    """Hands its input on, where a network has no norm, no attention or no downsampling."""

    def forward(self, input: Tensor, masked: Tensor | None = None) -> Tensor:
        """The input."""
        return input
