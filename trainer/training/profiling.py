"""Where the time of training steps goes: a trace for a viewer, and a table by the parts of the networks.

RUN/profile/steps-10-20.json.gz    rank 0's trace, for chrome://tracing or ui.perfetto.dev
RUN/profile/steps-10-20.txt        the table

A part is a module. What its forward starts is its own by nesting; what autograd does for it later is found by the
sequence numbers that autograd gives to forward operations and their backward.
"""

import gzip
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from ..checkpoint.save_error import needed
from ..distributed import ranks
from ..files import write_text

FOLDER = "profile"
NAME = re.compile(r"steps-\d+-\d+\.(json\.gz|txt)")  # of a file in it
MARK = "part: "  # the names of our own ranges begin so
DATA, OPTIMIZER, COMMUNICATION, OTHER = "data", "optimizer", "communication", "other"
WIRE = ("gloo:", "nccl:", "c10d::")  # the names of collectives begin so

T = TypeVar("T")


class ProfileWindow(NamedTuple):
    """Which steps are looked at: the first, and the one after the last."""

    first: int
    end: int


class PartTime(NamedTuple):
    """What a part takes of one step, in milliseconds."""

    part: str
    forward: float  # on the host
    backward: float
    device: float  # of kernels on the GPU, in both directions; 0 on a CPU

    @property
    def host(self) -> float:
        """In both directions."""
        return self.forward + self.backward


def profiled(
    batches: Iterator[T], start: int, window: ProfileWindow | None, parts: Mapping[str, nn.Module], run: Path
) -> Generator[T, None, None]:
    """The same batches; the steps of the window are profiled on rank 0, and the table is printed after them.

    A window that the training does not reach, or leaves early, gives what there was of it, once this is closed.

    Args:
        start: the step of the first batch.
        window: None: nothing is profiled.
        parts: the networks' modules by the names of the table.
        run: the run's folder.
    """
    if window is None or ranks.rank() != 0:
        yield from batches
        return
    watched = _Watched(parts)
    try:
        for step in _steps(start):
            if step == window.first:
                watched.begin()
            if step == window.end:
                watched.finish(run, window)
            with record_function(MARK + DATA):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
            watched.steps += watched.active
    finally:
        watched.finish(run, window)


def _steps(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1


class _Watched:
    """A profiler and the hooks that mark the parts."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.active = False
        self.steps = 0
        self._parts = parts
        self._hooks: list[Any] = []
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profile: Any = profile(activities=activities)

    def begin(self) -> None:
        for name, part in self._parts.items():
            for module in part if isinstance(part, nn.ModuleList) else [part]:  # a list is never called itself
                self._hooks += _marked_calls(module, MARK + name)
        self._profile.start()
        self.active = True

    def finish(self, run: Path, window: ProfileWindow) -> None:
        """Stop, write, print; nothing where it has not begun."""
        if not self.active:
            return
        self.active = False
        self._profile.stop()
        for hook in self._hooks:
            hook.remove()
        if not self.steps:
            return
        said = table(part_times(self._profile.events() or [], self.steps))
        name = f"steps-{window.first}-{window.end}"
        with needed("a profile", run):
            (run / FOLDER).mkdir(exist_ok=True)
            _write_trace(self._profile, run / FOLDER / f"{name}.json")
            write_text(run / FOLDER / f"{name}.txt", said + "\n")
        print(f"{said}\ntrace: {run / FOLDER / name}.json.gz", file=sys.stderr, flush=True)


def _marked_calls(module: nn.Module, name: str) -> list[Any]:
    """Hooks that put a range of this name around every forward of a module."""
    ranges: list[Any] = []

    def enter(*_: object) -> None:
        ranges.append(record_function(name))
        ranges[-1].__enter__()

    def leave(*_: object) -> None:
        ranges.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def _write_trace(made: Any, path: Path) -> None:
    made.export_chrome_trace(str(path))
    with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    with suppress(FileNotFoundError):
        path.unlink()


def part_times(events: Sequence[Any], steps: int) -> list[PartTime]:
    """The time of every part, the largest first; together they are all that was recorded.

    Args:
        events: of ``torch.profiler``, every one with its own time, its parent and its sequence number.
        steps: how many there were.
    """
    owners: dict[int, str] = {}  # of autograd's sequence numbers
    for event in events:
        part = _marked(event)
        if part is not None and event.sequence_nr >= 0 and not _is_backward(event):
            owners[event.sequence_nr] = part
    times: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for event in events:
        part, column = _owner(event, owners)
        times[part][column] += event.self_cpu_time_total
        times[part][2] += event.self_device_time_total
    found = [PartTime(part, *(value / 1e3 / steps for value in row)) for part, row in times.items()]
    return sorted(found, key=lambda each: (-each.device, -each.host, each.part))


def _owner(event: Any, owners: Mapping[int, str]) -> tuple[str, int]:
    """The part of an event, and whether it is forward (0) or backward (1)."""
    if event.name.startswith(WIRE):
        return COMMUNICATION, 0
    part = _marked(event)
    if part is not None:
        return part, 0
    above = event
    while above is not None:
        if above.name.startswith("Optimizer."):
            return OPTIMIZER, 0
        if _is_backward(above):
            return owners.get(above.sequence_nr, OTHER), 1
        above = above.cpu_parent
    return OTHER, 0


def _marked(event: Any) -> str | None:
    """The innermost of our ranges around an event."""
    while event is not None:
        if event.name.startswith(MARK):
            return str(event.name.removeprefix(MARK))
        event = event.cpu_parent
    return None


def _is_backward(event: Any) -> bool:
    return bool(event.name.startswith("autograd::engine::evaluate_function"))


def table(times: Sequence[PartTime]) -> str:
    """The times as text, a row a part."""
    on_device = any(each.device for each in times)
    total = sum(each.device if on_device else each.host for each in times) or 1.0
    heads = ["ms a step", "forward", "backward", *(["GPU"] if on_device else []), "share"]
    rows = [
        [
            each.part,
            f"{each.forward:.1f}",
            f"{each.backward:.1f}",
            *([f"{each.device:.1f}"] if on_device else []),
            f"{(each.device if on_device else each.host) / total:.0%}",
        ]
        for each in times
    ]
    return "\n".join("  ".join([row[0].ljust(16), *(cell.rjust(9) for cell in row[1:])]) for row in [heads, *rows])
