"""GroupNorm of tensors that are stored channels-last, which stay so; torch's own on a GPU leaves that layout.

Shapes: B samples, C channels in G groups of D, N = H * W places. Wu and He 2018, equation 1.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As ``torch.nn.functional.group_norm`` of a channels-last (B, C, H, W), in its layout; not differentiable twice.

    Statistics are float32 at least, whatever the precision of ``x``.
    """
    normed: Tensor = _ChannelsLastNorm.apply(x, groups, weight, bias, eps)  # type: ignore[no-untyped-call]
    return normed


def is_channels_last(x: Tensor) -> bool:
    """Whether a (B, C, H, W) tensor is stored so, and in no other way too."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class _ChannelsLastNorm(torch.autograd.Function):
    """Everything per sample and channel is small; what is as large as ``x`` is read and written in its own order."""

    @staticmethod
    def forward(context: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        wide = rearrange(x, "b (g d) h w -> b (h w) g d", g=groups).to(_accumulated(x))
        variance, mean = torch.var_mean(wide, dim=(1, 3), correction=0)  # (B, G)
        root = (variance + eps).rsqrt()
        scale = rearrange(weight.to(wide.dtype), "(g d) -> g d", g=groups) * root[..., None]  # (B, G, D)
        shift = rearrange(bias.to(wide.dtype), "(g d) -> g d", g=groups) - mean[..., None] * scale
        context.save_for_backward(x, weight, mean, root)
        return _like(torch.addcmul(shift[:, None], wide, scale[:, None]), x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, root = context.saved_tensors
        groups = mean.shape[1]
        wide, given = (
            rearrange(part, "b (g d) h w -> b (h w) g d", g=groups).to(mean.dtype)
            for part in (x, gradient.contiguous(memory_format=torch.channels_last))
        )
        numbers = wide.shape[1] * wide.shape[3]
        scales = rearrange(weight.to(mean.dtype), "(g d) -> g d", g=groups)
        sums, products = given.sum(1), (given * wide).sum(1)  # (B, G, D)
        centered = (products - mean[..., None] * sums) * root[..., None]  # the gradient times what was normalized
        slope = -(scales * centered).sum(2) * root.square() / numbers  # (B, G), of x
        offset = -(scales * sums).sum(2) * root / numbers - mean * slope
        moved = torch.addcmul(offset[:, None, :, None], wide, slope[:, None, :, None])
        into_x = _like(moved.addcmul_(given, (scales * root[..., None])[:, None]), x)
        into_weight, into_bias = (part.sum(0).flatten().to(weight.dtype) for part in (centered, sums))
        return into_x, None, into_weight, into_bias, None


def _accumulated(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _like(wide: Tensor, x: Tensor) -> Tensor:
    """(B, N, G, D) back to the shape, precision and layout of ``x``."""
    return rearrange(wide.to(x.dtype), "b (h w) g d -> b (g d) h w", h=x.shape[2])
