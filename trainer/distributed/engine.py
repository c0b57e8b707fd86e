"""Our engine section -> a DeepSpeed configuration -> an engine.

What DeepSpeed leaves to its caller is answered here once: the shared-memory op that needs a compiler is off on CPU,
files are loaded without unpickling anything but tensors and four known classes, and a parameter is rewritten through
its masters.
"""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import (
    logger,
)
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor, nn

from ...models.bounds import Name, Positive, check_ranges
from ..schema import MAY_CHANGE
from .compilation import compile_blocks
from .engine_protocol import ShardedEngine
from .gradients.norms import fuse, not_finite, total_norm
from .gradients.reduction import install
from .optimizer import OptimizerConfig

logger.setLevel(logging.WARNING)


BUCKET = 500_000_000
"""Most numbers in DeepSpeed's own buffer of gradients on their way: at stage 3, and where states are offloaded."""


@dataclass(frozen=True)
class EngineConfig:
    """How one network is sharded and in which numbers it is trained."""

    zero_stage: Literal[0, 1, 2, 3] = field(default=1, metadata=MAY_CHANGE)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # fp16 scales its loss, and more or less as gradients overflow
    grad_clip: Positive | None = None  # norm of the whole gradient over all ranks
    # optimizer states and masters live in the host's memory
    offload_optimizer: bool = field(default=False, metadata=MAY_CHANGE)
    offload_parameters: bool = field(default=False, metadata=MAY_CHANGE)  # so do the parameters that are not in use
    # a folder on a fast local disk for what is offloaded, instead of the host's memory
    nvme_path: Name | None = field(default=None, metadata=MAY_CHANGE)
    # a backend of torch.compile, such as inductor, which compiles the network block by block
    compile_backend: Name | None = field(default=None, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip must be a positive norm, got {self.grad_clip}; leave it out to clip nothing")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, got 0; set zero_stage: 1")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(
                f"offload_parameters needs the partitioned parameters of zero_stage 3, got {self.zero_stage}"
            )
        if self.nvme_path is not None and self.zero_stage != 3:
            raise ValueError(
                f"nvme_path needs zero_stage 3, got {self.zero_stage}, where DeepSpeed would not use it; "
                "set zero_stage: 3"
            )
        if self.nvme_path is not None and not (self.offload_optimizer or self.offload_parameters):
            raise ValueError("nvme_path says where to offload, not what; set offload_optimizer or offload_parameters")
        if self.precision != "fp32" and self.zero_stage == 0:
            raise ValueError(
                f"{self.precision} needs zero_stage 1, 2 or 3, got 0, where its first step is an empty one; "
                "set zero_stage: 1"
            )
        check_ranges(self)


class _FiniteAdamW(torch.optim.AdamW):
    """Leaves out a step on a gradient that is not finite, as the engines of stages 1 to 3 do."""

    def step(self, closure: Any = None) -> Any:
        """One step on gradients that are reduced over ranks, so that all ranks decide alike."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            self.gradient_norm = total_norm(gradients)
            self.found_inf = not_finite(self.gradient_norm)  # read by the fused kernel, not by the host
        return super().step(closure)


def _optimizer(
    module: nn.Module, config: OptimizerConfig, kind: type[torch.optim.AdamW] = torch.optim.AdamW
) -> torch.optim.Optimizer:
    """AdamW in two groups: decay falls on the weights of linear layers and convolutions, as in the published system."""
    decayed, others = _grouped(module)
    groups = [
        {"params": list(decayed.values()), "weight_decay": config.weight_decay},
        {"params": list(others.values()), "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One pass over the memory instead of ten: six times faster on a CPU too.
    return kind(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def _grouped(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The trained parameters by name: those that decay, and the others."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    weights = {layer.weight for layer in layers}
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return (
        {name: parameter for name, parameter in trained.items() if parameter in weights},
        {name: parameter for name, parameter in trained.items() if parameter not in weights},
    )


def parameter_names(module: nn.Module) -> list[str]:
    """The names of the trained parameters in the order in which the optimizer counts them."""
    decayed, others = _grouped(module)
    return [*decayed, *others]


def _deepspeed_config(config: EngineConfig, numbers: int, micro_batch: int, accumulation: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage, "reduce_bucket_size": min(BUCKET, max(numbers, 1))}
    place = {"device": "cpu"} if config.nvme_path is None else {"device": "nvme", "nvme_path": config.nvme_path}
    if config.offload_optimizer:
        zero["offload_optimizer"] = place
    if config.offload_parameters:
        zero["offload_param"] = place
    if config.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = 0
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # its Adam is compiled on the spot; torch's is not
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": config.precision == "fp16", "loss_scale": 0, "initial_scale_power": 16},  # 0: dynamic
        "gradient_clipping": config.grad_clip or 0.0,
        "steps_per_print": 1 << 60,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device around every forward
        "wall_clock_breakdown": False,
    }


def build(
    module: nn.Module, config: EngineConfig, optimizer: OptimizerConfig, micro_batch: int, accumulation: int
) -> ShardedEngine:
    """A DeepSpeed engine around the module. Every rank must call this, in the same order, inside ``ranks.group``.

    Args:
        micro_batch: images a rank sees in one forward.
        accumulation: micro-batches of one optimizer step.

    Raises:
        ValueError: the numbers asked for are not to be had on this machine.
    """
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision fp16 needs a GPU, and there is none here; set precision: bf16 or fp32")
    if not torch.cuda.is_available():
        # Its build needs a compiler and leaves a lock that hangs every later run when it is killed; gloo serves.
        getattr(deepspeed.ops, "__compatible_ops__", {})["deepspeed_shm_comm"] = False
    numbers = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=_optimizer(module, optimizer, _FiniteAdamW if config.zero_stage == 0 else torch.optim.AdamW),
        config=_deepspeed_config(config, numbers, micro_batch, accumulation),
    )
    if config.zero_stage == 0:
        engine.clip_fp32_gradients = partial(_clip, engine)
    if config.zero_stage == 0 and dist.get_world_size() == 1:
        engine.enable_backward_allreduce = False  # it would copy all gradients to a buffer and back, for nobody
    problems = []
    if config.zero_stage in (1, 2):
        problems = [fuse(engine.optimizer), install(engine.optimizer, engine.module, accumulation)]
    for problem in filter(None, problems if dist.get_rank() == 0 else ()):
        logger.warning(problem)
    engine.checkpoint_engine = DeferredCheckpointEngine()
    engine._get_all_ckpt_names = partial(_model_files, engine)
    engine._copy_recovery_script = lambda folder: None  # scripts that unpickle; the weights for use lie beside
    if config.zero_stage == 3 and config.nvme_path is None:
        _zero_padding(engine)
    if config.compile_backend is not None:
        compile_blocks(engine.module, config.compile_backend)
    return cast(ShardedEngine, engine)


def _clip(engine: Any) -> None:
    """Clip the gradients of ZeRO 0 and keep the norm that they had, for ``get_global_grad_norm``."""
    engine._global_grad_norm = nn.utils.clip_grad_norm_(engine.module.parameters(), engine.gradient_clipping())


@torch.no_grad()
def _zero_padding(engine: Any) -> None:
    """What fills a parameter's last partition up is memory as it was found: zeros make checkpoints reproducible."""
    for parameter in engine.module.parameters():
        held = parameter.ds_tensor.numel()
        used = min(max(parameter.ds_numel - dist.get_rank() * held, 0), held)
        parameter.ds_tensor.data.view(-1)[used:] = 0
        if parameter.requires_grad:
            master, _ = engine.optimizer._get_fp32_opt_state_partition(parameter, False)
            master.data[used:] = 0


def steps_applied(engines: Mapping[str, ShardedEngine]) -> dict[str, bool]:
    """Whether each engine's last step changed its weights: no, where a gradient was not finite. Alike on all ranks.

    One wait for the device, whatever the number of engines.
    """
    marks = {name: _left_out(engine) for name, engine in engines.items()}
    known = {name: mark for name, mark in marks.items() if mark is not None}
    left_out = dict(zip(known, torch.stack(list(known.values())).tolist(), strict=True)) if known else {}
    applied = {name: engine.was_step_applied() and not left_out.get(name, 0.0) for name, engine in engines.items()}
    for name, engine in engines.items():
        engine.skipped_steps += bool(left_out.get(name, 0.0))
    return applied


def _left_out(engine: Any) -> Tensor | None:
    """1 where the fused optimizer has left the last step out, () fp32; None where the host knows already."""
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    mark: Tensor | None = getattr(optimizer, "found_inf", None)
    return mark


def state_of(engines: Mapping[str, ShardedEngine]) -> dict[str, float]:
    """The learning rate of each engine's last step and the norm of its gradient before clipping, over all ranks.

    The host waits for the device. A norm that is not finite, and that of an engine without a step, is left out.
    """
    rates = {f"lr/{name}": float(engine.optimizer.param_groups[0]["lr"]) for name, engine in engines.items()}
    norms = {f"grad_norm/{name}": _gradient_norm(engine) for name, engine in engines.items()}
    known = {name: float(norm) for name, norm in norms.items() if norm is not None}
    return rates | {name: norm for name, norm in known.items() if math.isfinite(norm)}


def _gradient_norm(engine: Any) -> Tensor | float | None:
    norm: Tensor | float | None = engine.get_global_grad_norm()
    return getattr(engine.optimizer, "gradient_norm", None) if norm is None else norm


def set_learning_rate(engine: ShardedEngine, rate: float) -> None:
    """The learning rate of the coming step, in every group of the engine's optimizer."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


KNOWN: Sequence[Any] = (LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address)
"""The classes, besides tensors and plain containers, that DeepSpeed's files hold."""


def read(path: Path, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """What lies in a file, without running anything that the file says.

    Raises:
        pickle.UnpicklingError: it holds something besides tensors, plain containers and the known classes.
    """
    with torch.serialization.safe_globals(list(KNOWN)):
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)


def _model_files(engine: Any, folder: str, tag: str) -> list[str]:
    """This rank's files of weights of a saved engine; DeepSpeed would take ``lr[1e-3]`` in a path for a pattern."""
    pattern = Path(engine._get_ckpt_name(folder, tag, mp_placeholder="*")).name
    return sorted(str(path) for path in Path(folder, tag).glob(pattern))


class File(NamedTuple):
    """What will lie in a file once ``torch.save`` has written it."""

    path: Path
    content: Any


class DeferredCheckpointEngine(TorchCheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's files: read safely, and kept back as a snapshot in the host's memory for others to write."""

    def __init__(self) -> None:
        super().__init__()
        self.kept_back: list[File] = []

    def save(self, state_dict: Any, path: str) -> None:
        self.kept_back.append(File(Path(path), snapshot(state_dict)))

    def load(self, path: str, map_location: Any = None) -> Any:
        return read(Path(path), map_location)


def snapshot(value: Any) -> Any:
    """A copy in the host's memory that later steps do not change: of tensors, and of containers all the way down."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(part) for key, part in value.items()}
    if isinstance(value, list):
        return [snapshot(part) for part in value]
    if type(value) is tuple:
        return tuple(snapshot(part) for part in value)
    return copy.copy(value)


def save(engine: ShardedEngine, folder: Path) -> list[File]:
    """The engine's weights and optimizer, sharded as they are, as files to be written. Every rank must call this."""
    engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    files: DeferredCheckpointEngine = engine.checkpoint_engine
    kept_back, files.kept_back = files.kept_back, []
    return kept_back


def load(engine: ShardedEngine, folder: Path) -> None:
    """What ``save`` wrote, bit for bit, on as many ranks as it was saved on. Every rank must call this.

    Raises:
        ValueError: DeepSpeed found nothing to load.
    """
    found, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    if found is None:
        raise ValueError(f"{folder} holds no weights that DeepSpeed can load")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How one network is optimized and sharded."""

    optimizer: OptimizerConfig
    engine: EngineConfig = field(default_factory=EngineConfig)
