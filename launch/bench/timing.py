"""Clocks, FLOP counters and memory peaks of the benchmarks."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Turn(NamedTuple):
    """Some steps of one contestant."""

    codes: int
    seconds: float


class Contestant:
    """A sampler that samples on when it is its turn.

    Args:
        name: of it.
        work: samples a step whenever it is asked, and says how many codes that were; endless.
        steps: of one turn.
    """

    def __init__(self, name: str, work: Iterator[int], steps: int) -> None:
        self.name = name
        self.work = work
        self.steps = steps
        self.turns: list[Turn] = []

    def take_turn(self, device: torch.device, clock: Callable[[], float]) -> None:
        """Sample some steps and note how long that took."""
        wait(device)
        began = clock()
        codes = sum(next(self.work) for _ in range(self.steps))
        wait(device)
        self.turns.append(Turn(codes, clock() - began))

    @property
    def rate(self) -> float:
        """Codes a second over all turns."""
        return sum(turn.codes for turn in self.turns) / sum(turn.seconds for turn in self.turns)


def check_no_gpu(name: str, instead: str) -> None:
    """Raises ValueError where there is a GPU, on which a measurement of the host's times and memory means nothing."""
    if torch.cuda.is_available():
        raise ValueError(
            f"bench {name} measures the processor's time and memory, which say nothing of a GPU; hide the GPUs with "
            f"CUDA_VISIBLE_DEVICES= (an empty value), or run {instead}"
        )


def wait(device: torch.device) -> None:
    """Until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Seconds of the parts of a step; what is timed inside another part counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = now()
        self._inner.append(0.0)
        yield
        spent = now() - began
        self.seconds[name] += spent - self._inner.pop()
        self._inner[-1] += spent

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed as a part."""

        def inner(*positional: Any, **named: Any) -> Any:
            with self.timed(name):
                return call(*positional, **named)

        return inner


def now() -> float:
    """Seconds on the clock that counts here; waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of everything inside, backward passes too; torch's own counter tracks
    modules as well, and cannot while gradients are taken at a leaf."""

    total = 0

    def __torch_dispatch__(self, operator: Any, types: Any, positional: Any = (), named: Any = None) -> Any:
        result = operator(*positional, **(named or {}))
        count = flop_registry.get(operator._overloadpacket)
        if count is not None:
            self.total += count(*positional, **(named or {}), out_val=result)
        return result


class Peak:
    """The most memory in use inside its block: of the GPU, or of this process, looked at 20 times a second."""

    def __enter__(self) -> "Peak":
        self.bytes = 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return self
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.bytes = torch.cuda.max_memory_allocated()
            return
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
            self.bytes = max(self.bytes, resident)
