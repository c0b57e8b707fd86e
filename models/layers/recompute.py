"""Activation checkpointing: what a layer computes for its gradient is computed again in the backward pass, not kept."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_layer(layer: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """``layer(*inputs)``; its activations are not kept where that is asked for and gradients are wanted."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
    output: Tensor = layer(*inputs)
    return output
