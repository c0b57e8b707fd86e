"""What an engine is to those who use one: DeepSpeed's engine satisfies it, and a few lines of plain torch do."""

from typing import Any, Protocol

from torch import Tensor


class Engine(Protocol):
    """What a task needs of an engine; DeepSpeed's has it, and six lines of plain torch have it in a test."""

    module: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def backward(self, loss: Tensor) -> Any: ...

    def step(self) -> Any: ...

    def zero_optimization_stage(self) -> int: ...


class ShardedEngine(Engine, Protocol):
    """What checkpoints and averages need besides: the part of DeepSpeed's engine that is used here."""

    optimizer: Any
    checkpoint_engine: Any
    global_steps: int
    global_samples: int
    skipped_steps: int

    def empty_partition_cache(self) -> None: ...

    def was_step_applied(self) -> bool: ...

    def save_checkpoint(self, save_dir: str, tag: str, *, save_latest: bool) -> Any: ...

    def load_checkpoint(self, load_dir: str, tag: str) -> Any: ...
