"""How fast a run trains: images or tokens per second, the wait for data, and how much of the GPUs it uses."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch

from ..distributed import ranks

T = TypeVar("T")
GIB = 1024**3
PEAKS = {  # by a part of the device's name: the most dense bf16 operations a second (fp16 on a V100), by its data sheet
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H800": 989e12, "H200": 989e12, "A100": 312e12,
    "A800": 312e12, "L40S": 362e12, "V100": 125e12,
}  # fmt: skip


class Workload(NamedTuple):
    """What an optimizer step works on, over all ranks."""

    unit: str  # "images" or "tokens"
    units: int
    flops: float | None = None  # forward and backward; None where it is not known, as on ranks that write nothing


class Throughput:
    """The clock of one rank's training steps. It reads the host's clock only: nothing waits for the device.

    Args:
        work: of a step; None measures time alone.
        clock: seconds, from any point on.
        peak: the most operations a second of this rank's device; None where it is not known.
    """

    def __init__(
        self, work: Workload | None = None, clock: Callable[[], float] = time.monotonic, peak: float | None = None
    ) -> None:
        self._work = work
        self._peak = peak
        self._clock = clock
        self._began = self._stepped = clock()
        self._paused = self._waited = 0.0
        self.own: dict[str, float] = {}  # this rank's figures of the last reading

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as time spent waiting for data."""
        while True:
            began = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += self._clock() - began
            yield batch

    def step_done(self) -> None:
        """A step has ended here."""
        self._stepped = self._clock()

    def resume(self) -> None:
        """What was done since the last step, such as an evaluation, was no training."""
        now = self._clock()
        self._paused += now - max(self._stepped, self._began)
        self._stepped = now

    def read(self, steps: int) -> dict[str, float]:
        """The figures of the steps since the last reading, of the slowest and fullest rank. Every rank must call this.

        Returns:
            ``seconds_per_step``; ``images_per_second`` of all ranks and ``images_per_second_per_gpu`` of one (or
            ``tokens``); ``data_wait``, the share of time spent waiting for data; on GPUs ``gpu_memory``, the most GiB
            that tensors took at once, and ``mfu``, the share of the devices' peak that the steps have reached
            (Chowdhery et al. 2022, appendix B).
        """
        now = self._clock()
        seconds, waited = max(now - self._began - self._paused, 1e-9), self._waited
        self._began = self._stepped = now
        self._paused = self._waited = 0.0
        figures = {"data_wait": min(waited / seconds, 1.0)}
        if steps > 0:
            figures["seconds_per_step"] = seconds / steps
        if torch.cuda.is_available():
            figures["gpu_memory"] = torch.cuda.max_memory_allocated() / GIB
            torch.cuda.reset_peak_memory_stats()
        self.own = figures
        figures = ranks.all_reduce_max(figures)
        if steps > 0 and self._work is not None:
            pace = self._work.units / figures["seconds_per_step"]
            figures[f"{self._work.unit}_per_second"] = pace
            figures[f"{self._work.unit}_per_second_per_gpu"] = pace / ranks.world()
            if self._work.flops is not None and self._peak is not None:
                figures["mfu"] = self._work.flops / figures["seconds_per_step"] / (ranks.world() * self._peak)
        return figures


def peak_flops(name: str) -> float | None:
    """The most bf16 operations a second of a device of this name, or None."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def own_peak() -> float | None:
    """That of this rank's device; None on a CPU."""
    return peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
