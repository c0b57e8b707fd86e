"""The norm of a ZeRO 1 or 2 optimizer's gradients in a few kernels, which is also what tells that they are not finite.

DeepSpeed 0.19 walks the parameters one by one, twice: about twelve kernels each to look for values that are not finite
and two for the norm. One fused call takes the norms of all of them, and a norm is finite just where every gradient is
(or overflows beside one that nothing could learn from), so that the first walk is not needed. Nor does the host wait
for the norm: the optimizer's own kernel leaves its weights alone where ``found_inf`` is 1. Only fp16, whose loss is
scaled by what the host has seen, waits.
"""

import types
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

REPLACED = (
    "has_overflow", "check_overflow", "get_grad_norm_direct", "unscale_and_clip_grads", "check_grad_overflow",
    "compute_grad_norm", "averaged_gradients", "model_parallel_rank", "clip_grad",
)  # fmt: skip


def fuse(optimizer: Any) -> str:
    """Give a DeepSpeed optimizer of ZeRO 1 or 2, around torch's fused AdamW, the fused norm in place of its walks.

    Returns:
        Why it was left as it is, for the log; nothing where it was changed. States on the host keep DeepSpeed's own
        way, which has a norm of its own there: that is no reason to speak of.
    """
    if getattr(optimizer, "cpu_offload", False):
        return ""
    missing = [name for name in REPLACED if not hasattr(optimizer, name)]
    if missing:
        return f"this DeepSpeed's optimizer has no {', '.join(missing)}, so its gradients are walked one by one: slower"
    if optimizer.model_parallel_rank != 0 or getattr(optimizer, "has_moe_layers", False):
        return ""
    optimizer.unscale_and_clip_grads = types.MethodType(_scale, optimizer)
    if optimizer.dtype == torch.float16:
        optimizer.has_overflow = lambda partition_gradients=True: False  # the norm tells
        optimizer.get_grad_norm_direct = types.MethodType(_norm, optimizer)
        return ""
    optimizer.check_overflow = types.MethodType(_measure, optimizer)
    optimizer.check_grad_overflow = True  # or the line above would not be asked
    optimizer.step = types.MethodType(_step, optimizer)
    return ""


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm of all of them together, () fp32."""
    return torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)).square().sum().sqrt()


@torch.no_grad()
def _measure(self: Any, partition_gradients: bool = True) -> None:
    """Take the norm of all groups' gradients over all ranks, in one message, and tell AdamW whether it is finite."""
    groups = (group for group in self.averaged_gradients.values() if group is not None)
    self.overflow = False
    self.measured_norm = _over_ranks(self, [gradient for group in groups for gradient in group])
    self.optimizer.found_inf = not_finite(self.measured_norm)


def _step(self: Any, closure: Any = None) -> None:
    """DeepSpeed's step without its own norm, for which the host would wait; ``_measure`` has taken it."""
    self.compute_grad_norm = False
    try:
        type(self).step(self, closure)
    finally:
        self.compute_grad_norm = True  # loading a checkpoint asks
    self._global_grad_norm = self.measured_norm / self.loss_scale


def not_finite(norm: Tensor) -> Tensor:
    """1 where a norm is not finite, else 0, as torch's fused optimizers read it: () fp32."""
    return norm.isfinite().logical_not().float()


def _over_ranks(optimizer: Any, gradients: list[Tensor]) -> Tensor:
    counted = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)]
    total = total_norm(counted).square() if counted else torch.zeros((), device=optimizer.device)
    ranks = dist.get_world_size(optimizer.dp_process_group)
    if ranks > 1:  # by the job's own communicator, wherever it has the same ranks
        dist.all_reduce(total, group=None if ranks == dist.get_world_size() else optimizer.dp_process_group)
    return total.sqrt()


@torch.no_grad()
def _norm(self: Any, gradients: list[Tensor], params: Any, norm_type: float = 2) -> Tensor:
    """The norm of a group's gradients over all ranks; -1, DeepSpeed's mark, where one is not finite."""
    total = _over_ranks(self, gradients)
    return torch.where(total.isfinite(), total, torch.full_like(total, -1.0))


@torch.no_grad()
def _scale(self: Any, grad_groups_flat: list[Tensor], total_norm: Tensor | None) -> None:
    """Clip by the norm of all gradients and take the loss's scale out; what is not finite stays so, and is left out."""
    scale = self.loss_scale
    if self.clip_grad > 0:
        norm = self.measured_norm if total_norm is None else total_norm
        scale = scale * ((norm / self.loss_scale + 1e-6) / self.clip_grad).clamp(min=1.0)
    elif scale == 1.0:
        return
    for gradient in grad_groups_flat:
        gradient.mul_(1.0 / scale)
