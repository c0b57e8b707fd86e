"""The trained weights that each rank owns, flat and in as few tensors as the stage of ZeRO allows.

    ZeRO 0     an equal share of every parameter
    ZeRO 1, 2  the fp32 masters of this rank's slice of each group of parameters, one tensor a group
    ZeRO 3     this rank's partition of every parameter

Whatever is kept beside them (an average, the best of a run) costs 1/N of the network on each of N ranks.
"""

from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from . import ranks
from .engine_protocol import ShardedEngine


class Part(NamedTuple):
    """The piece of one parameter that a rank owns."""

    tensor: int  # which of the rank's flat tensors it lies in
    start: int  # where there
    numel: int  # filled up with zeros where a partition of ZeRO 3 reaches beyond its parameter
    offset: int  # where the piece begins in the flat parameter


class OwnedWeights(Protocol):
    """What a rank owns of a module's trained parameters.

    Attributes:
        parts: by the parameter's name; the ranks' parts of a parameter follow each other in the order of ranks.
        sizes: numbers in each trained parameter, whichever rank owns them.
    """

    parts: dict[str, Part]
    sizes: dict[str, int]

    def values(self) -> list[Tensor]:
        """The flat tensors themselves, which the optimizer writes."""

    def live(self) -> list[Tensor]:
        """What the network computes with on this rank."""

    def put(self, values: list[Tensor]) -> None:
        """Let the network compute with these in place of ``values()``. Every rank must call this."""

    def release(self) -> None:
        """Drop what is gathered of the parameters: beside rewritten partitions it would go on with old weights."""


def owned(engine: ShardedEngine) -> OwnedWeights:
    """What this rank owns of an engine's module. Every rank must call this."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return Shares(engine.module)
    return Partitions(engine) if stage == 3 else Masters(engine)


class Shares:
    """Of a module that every rank has whole: an equal share of each parameter."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = _trained(module)
        self.sizes = {name: parameter.numel() for name, parameter in self._parameters.items()}
        self.parts = {}
        for index, (name, size) in enumerate(self.sizes.items()):
            start, end = self._share(size)
            if end > start:
                self.parts[name] = Part(index, 0, end - start, start)

    @staticmethod
    def _share(size: int) -> tuple[int, int]:
        each = -(-size // ranks.world())
        return min(ranks.rank() * each, size), min((ranks.rank() + 1) * each, size)

    def values(self) -> list[Tensor]:
        return [p.data.reshape(-1)[slice(*self._share(p.numel()))] for p in self._parameters.values()]

    def live(self) -> list[Tensor]:
        return [parameter.data for parameter in self._parameters.values()]

    def put(self, values: list[Tensor]) -> None:
        each = [-(-size // ranks.world()) for size in self.sizes.values()]
        mine = torch.cat([F.pad(value, (0, size - value.numel())) for value, size in zip(values, each, strict=True)])
        gathered = torch.split(ranks.all_gather(mine[None]), each, dim=1)  # (R, share) of each parameter
        for parameter, shares in zip(self._parameters.values(), gathered, strict=True):
            parameter.data.copy_(shares.reshape(-1)[: parameter.numel()].view(parameter.shape))

    def release(self) -> None:
        """Nothing is gathered."""


class Masters:
    """Of an engine of ZeRO 1 or 2: its optimizer's fp32 masters."""

    def __init__(self, engine: ShardedEngine) -> None:
        self._optimizer = engine.optimizer
        trained = _trained(engine.module)
        self.sizes = {name: parameter.numel() for name, parameter in trained.items()}
        self.parts = {}
        for group, addresses in enumerate(self._optimizer._param_slice_mappings):
            for name, address in addresses.items():
                mapping: Any = trained[name]._hp_mapping
                self.parts[name] = Part(group, address.start, address.numel, mapping.lp_fragment_address.start)

    def values(self) -> list[Tensor]:
        return [master.data for master in self._optimizer.single_partition_of_fp32_groups]

    def live(self) -> list[Tensor]:
        return [flat.data for flat in self._optimizer.bit16_groups_flat]

    def put(self, values: list[Tensor]) -> None:
        optimizer = self._optimizer
        places = zip(optimizer.parallel_partitioned_bit16_groups, optimizer.real_dp_process_group, strict=True)
        for value, (partitions, group) in zip(values, places, strict=True):
            mine = partitions[dist.get_rank(group)].data
            mine.copy_(value)
            if dist.get_world_size(group) > 1:
                dist.all_gather([partition.data for partition in partitions], mine.clone(), group=group)

    def release(self) -> None:
        """Nothing is gathered: every rank has all weights in the precision of the computation."""


class Partitions:
    """Of an engine of ZeRO 3: partitions of parameters, of which masters may lie on a disk."""

    def __init__(self, engine: ShardedEngine) -> None:
        self._engine = engine
        self._parameters = _trained(engine.module)
        self.sizes = {name: int(parameter.ds_numel) for name, parameter in self._parameters.items()}
        self.parts = {
            name: Part(index, 0, value.numel(), ranks.rank() * value.numel())
            for index, (name, value) in enumerate(zip(self._parameters, self.values(), strict=True))
        }

    def values(self) -> list[Tensor]:
        return [parameter.ds_tensor.data.view(-1) for parameter in self._parameters.values()]

    def live(self) -> list[Tensor]:
        return self.values()

    def put(self, values: list[Tensor]) -> None:
        self.release()
        for mine, value in zip(self.live(), values, strict=True):
            mine.copy_(value)

    def release(self) -> None:
        self._engine.empty_partition_cache()


def _trained(module: nn.Module) -> dict[str, Any]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
