"""A checkpoint of N ranks at one ZeRO stage, dealt out to M ranks at another.

DeepSpeed reads its own files only where they were written alike. What they hold is the same everywhere, though: of each
parameter an fp32 master and two moments, cut into parts. Here the parts are found by the parameter's name, joined, and
cut again for the ranks that are there now; one parameter at a time, so that nobody holds the whole.

    ZeRO 0     whole tensors on rank 0
    ZeRO 1, 2  each group of parameters as one flat tensor, cut into one slice a rank wherever the cut falls
    ZeRO 3     each parameter flat and cut into equal partitions, the last one padded
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import engine as engines
from ..distributed import ranks, sharded_parameters
from ..distributed.engine_protocol import ShardedEngine

MASTER = "master"  # beside the names of the moments
Parts = dict[str, list[dict[str, Tensor]]]  # of each parameter: its master and moments by part, in the order of ranks


def load(engine: ShardedEngine, folder: Path, zero: int, saved_on: int) -> None:
    """What an engine of the same module saved on another number of ranks or at another stage. Every rank must call it.

    Args:
        folder: that of the engine in the checkpoint.
        zero: the stage it was saved at.
        saved_on: how many ranks saved it.

    Raises:
        ValueError: its states lie on NVMe, or the parameters are not those of the engine.
    """
    model, states = _read(folder, zero, saved_on)
    parts = _parts(model, states, zero, engines.parameter_names(engine.module))
    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    if set(parts) != set(trained):
        raise ValueError(f"{folder} holds other parameters: {', '.join(sorted(set(parts) ^ set(trained))[:5])}")
    _make_moments(engine, _steps_taken(model, states, zero))
    for name, parameter in trained.items():
        _load_shard(engine, parameter, parts[name])
    buffers = {name: model["module"][name] for name in model["buffer_names"]}
    engine.module.load_state_dict(buffers, strict=False)
    engine.global_steps, engine.global_samples = model["global_steps"], model["global_samples"]
    engine.skipped_steps = model["skipped_steps"]
    if states and engine.zero_optimization_stage():
        engine.optimizer.loss_scaler = states[0]["optimizer_state_dict"]["loss_scaler"]


def masters(folder: Path, zero: int, saved_on: int) -> dict[str, list[Tensor]]:
    """The fp32 masters of the parameters by part, in the order of ranks, and the buffers, whole. Needs no engine.

    The tensors are views of the files, of which only what is looked at is read. Arguments and errors as of ``load``.
    """
    model, states = _read(folder, zero, saved_on)
    if zero == 0:
        return {name: [whole] for name, whole in model["module"].items()}
    found = {name: [part[MASTER] for part in parts] for name, parts in _parts(model, states, zero, []).items()}
    return found | {name: [model["module"][name]] for name in model["buffer_names"]}


def reshard_like(parameter: nn.Parameter, parts: Sequence[Tensor]) -> Tensor:
    """What this rank is to hold of something that is sharded as the parameter is, from what the saved ranks held."""
    whole = joined(parts, _size(parameter))
    mine = sharded_parameters.local_shard(parameter)
    return cut(whole, ranks.rank() * mine.numel() if _partitioned(parameter) else 0, mine.numel()).view_as(mine)


def _rank_file(folder: Path, rank: int) -> Path:
    """The file of a rank's states; its name tells the precision too."""
    (found,) = folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return found


def _read(folder: Path, zero: int, saved_on: int) -> tuple[dict[str, Any], list[Any]]:
    """What an engine has saved: its weights, and above ZeRO 0 the states of every rank."""
    if (folder / "offloaded_tensors").exists():
        raise ValueError(f"{folder} was saved with states on NVMe, which only as many ranks can read: {saved_on}")
    model = engines.read(sorted(folder.glob("*model_states.pt"))[0], mmap=True)
    return model, [engines.read(_rank_file(folder, rank), mmap=True) for rank in range(saved_on)] if zero else []


def _parts(model: Mapping[str, Any], states: list[Any], zero: int, names: list[str]) -> Parts:
    """``names`` are those of the trained parameters in the optimizer's order, which ZeRO 0 does not save."""
    if zero == 0:
        return _whole_tensors(model, names)
    kept = [state["optimizer_state_dict"] for state in states]
    if zero == 3:
        shapes = {name: shape for group in model["param_shapes"] for name, shape in group.items()}
        return _partitions(kept, shapes)
    return _slices(kept)


def _whole_tensors(model: Mapping[str, Any], names: list[str]) -> Parts:
    moments = model["optimizer"]["state"]
    return {
        name: [{MASTER: model["module"][name]} | _moments(moments.get(index, {}))] for index, name in enumerate(names)
    }


def _slices(kept: list[Any]) -> Parts:
    found: Parts = defaultdict(list)
    for rank in kept:
        moments = rank["base_optimizer_state"]["state"]
        for group, addresses in enumerate(rank["param_slice_mappings"]):
            flat = {MASTER: rank["single_partition_of_fp32_groups"][group]} | _moments(moments.get(group, {}))
            for name, address in addresses.items():
                end = address.start + address.numel
                found[name].append({key: value[address.start : end] for key, value in flat.items()})
    return dict(found)


def _partitions(kept: list[Any], shapes: Mapping[str, torch.Size]) -> Parts:
    found: Parts = defaultdict(list)
    for rank in kept:
        moments = rank["optimizer_state_dict"]["state"]
        flats = {MASTER: rank["fp32_flat_groups"]}
        for key in _moments(moments.get(0, {})):
            flats[key] = [moments[group][key] for group in sorted(moments)]
        start = 0
        for name, shape in shapes.items():
            size = -(-shape.numel() // len(kept))
            found[name].append({key: _within(flat, start, size) for key, flat in flats.items()})
            start += size
    return dict(found)


def _within(flats: Sequence[Tensor], start: int, size: int) -> Tensor:
    """A part of flat tensors that follow each other; a view where it lies in one of them."""
    pieces = []
    for flat in flats:
        piece = flat[start : start + size]
        pieces.append(piece)
        start, size = max(start - flat.numel(), 0), size - piece.numel()
        if not size:
            break
    pieces = [piece for piece in pieces if piece.numel()] or pieces[:1]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _moments(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of one parameter or flat group; none before the first step."""
    return {name: state[name] for name in sharded_parameters.MOMENTS if name in state}


def _steps_taken(model: Mapping[str, Any], states: list[Any], zero: int) -> Tensor | None:
    """Adam's own count, which leaves out steps on gradients that were not finite; None before the first step."""
    kept = states[0]["optimizer_state_dict"] if states else {}
    by_stage = {0: model["optimizer"] or {}, 3: kept.get("optimizer_state_dict", {})}
    moments = by_stage.get(zero, kept.get("base_optimizer_state", {}))["state"]
    return None if not moments else moments[0]["step"]


def _make_moments(engine: ShardedEngine, steps: Tensor | None) -> None:
    """Zeros where the optimizer keeps its moments, which DeepSpeed makes with the first step only."""
    if steps is None:
        return
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        masters = [p for group in optimizer.param_groups for p in group["params"]]
    else:
        masters = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
        optimizer = optimizer.optimizer
    for master in masters:
        moments = {name: torch.zeros_like(master.data) for name in sharded_parameters.MOMENTS}
        optimizer.state[master] = {"step": steps.clone(), **moments}
    if stage in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


@torch.no_grad()
def _load_shard(engine: ShardedEngine, parameter: nn.Parameter, parts: list[dict[str, Tensor]]) -> None:
    """Put this rank's part of a parameter's master and moments in its place, and the weights that come of them."""
    for key in parts[0]:
        whole = joined([part[key] for part in parts], _size(parameter))
        for place, start in _places(engine, parameter, key):
            place.copy_(cut(whole, start, place.numel()).view_as(place))
    sharded_parameters.local_shard(parameter).copy_(reshard_like(parameter, [part[MASTER] for part in parts]))


def _places(engine: ShardedEngine, parameter: nn.Parameter, key: str) -> list[tuple[Tensor, int]]:
    """Where this rank keeps a master or moment of a parameter, and where in the flat whole that begins."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    moment = None if key == MASTER else key
    if stage == 0:
        return [(parameter.data if moment is None else optimizer.state[parameter][moment], 0)]
    if stage == 3:
        place, _ = optimizer._get_fp32_opt_state_partition(parameter, False, moment)
        return [(place.data, ranks.rank() * place.numel())]
    mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:  # all of it lies on other ranks
        return []
    return [(mapping.get_hp_fragment(moment).data, mapping.lp_fragment_address.start)]


def _partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_tensor")


def _size(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def joined(parts: Sequence[Tensor], size: int) -> Tensor:
    """One flat tensor of all parts, or of the first where every one of them is the whole."""
    if parts[0].numel() == size:
        return parts[0].flatten()
    return torch.cat([part.flatten() for part in parts])[:size]


def cut(whole: Tensor, start: int, size: int) -> Tensor:
    """A part of a flat tensor, filled up with zeros where it reaches beyond the end."""
    part = whole[start : start + size]
    return F.pad(part, (0, size - part.numel()))
