"""RMSNorm (Zhang and Sennrich 2019, equation 4) in few kernels, for sampling.

Shapes: C channels, the last axis.
"""

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-6


def unscaled_norm(x: Tensor, limit: Tensor) -> Tensor:
    """(..., C) over its root mean square and over the root of C, in fp32; ``limit`` comes from ``norm_limit``."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return x / norm.hypot(limit)


def root_scale(norm: nn.RMSNorm) -> Tensor:
    """(C,) what makes the norm out of ``unscaled_norm``, in fp32."""
    return norm.weight.float() * math.sqrt(norm.weight.numel())


def norm_limit(norm: nn.RMSNorm) -> Tensor:
    """() the root of C times epsilon."""
    epsilon = EPSILON if norm.eps is None else norm.eps
    return norm.weight.new_full((), math.sqrt(norm.weight.numel() * epsilon), dtype=torch.float32)
