"""Parameters that ZeRO may have partitioned: the local shard, gathered, overwritten with their masters."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import deepspeed
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_fp32_param, safe_set_full_optimizer_state
from torch import Tensor, nn

from .engine_protocol import ShardedEngine


def local_shard(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter: all of it, or its partition at ZeRO 3."""
    partition: Tensor | None = getattr(parameter, "ds_tensor", None)
    return parameter.data if partition is None else partition.data


@contextmanager
def gathered_parameters(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, every parameter is whole on every rank, which must all enter. Nothing happens below ZeRO 3."""
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_tensor")]
    if not partitioned:
        yield
        return
    with deepspeed.zero.GatheredParameters(partitioned):
        yield


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, whole, in fp32 where it is floating, on the host. Every rank must call this."""
    with gathered_parameters(module.parameters()):
        return {
            name: (value.float() if value.is_floating_point() else value).detach().cpu().clone().contiguous()
            for name, value in module.state_dict().items()
        }


def overwrite_parameter(engine: ShardedEngine, parameter: nn.Parameter, value: Tensor, rows: Tensor) -> None:
    """Put a value in a trained parameter's place, masters included, and forget the moments of the rows that changed.

    Every rank must call this with the same value and rows.

    Args:
        value: of the parameter's full shape.
        rows: (R,) indices along the first axis whose optimizer state starts anew.
    """
    if engine.zero_optimization_stage() == 0:
        parameter.data.copy_(value)
        for moment in _moments(engine.optimizer.state.get(parameter, {})):
            moment[rows] = 0
        return
    safe_set_full_fp32_param(parameter, value.float())
    if hasattr(parameter, "ds_tensor"):
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)
    else:
        parameter.data.copy_(value)  # the masters reach it only with the next step
    if not any(_moments(state) for state in engine.optimizer.optimizer.state.values()):
        return  # before the first step there are none
    if engine.zero_optimization_stage() < 3:
        # DeepSpeed looks once where the moments of all parameters are, when only those of the first group exist.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    for name in MOMENTS:
        moment = safe_get_full_optimizer_state(parameter, name)
        moment[rows] = 0
        safe_set_full_optimizer_state(parameter, moment, name)


MOMENTS = ("exp_avg", "exp_avg_sq")


def _moments(state: dict[str, Tensor]) -> list[Tensor]:
    return [state[name] for name in MOMENTS if name in state]
