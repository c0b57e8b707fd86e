"""A step of sampling as one CUDA graph: captured once, then replayed; on other devices it is called as it is.

A step has fixed shapes and waits for nothing, so its hundreds of kernels need not be launched one by one.
"""

import warnings
from collections.abc import Callable

import torch

EAGER_CALLS = 2
"""Calls before the capture: they load kernels and fill the allocator, and their results count like any others."""


class StepGraph:
    """Calls a function; on CUDA by a graph from the third call on.

    Args:
        function: reads and writes tensors that stay where they are, such as weights, caches and a ``StepTable``. It
            must not wait for the device.
        device: where they are.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function = function
        self._captured = device.type == "cuda"
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do it once more."""
        self._calls += 1
        if self._calls == EAGER_CALLS + 1 and self._captured:
            self._capture()
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()

    def _capture(self) -> None:
        """Record the function, without running it; where that cannot be done, it stays as it is, and that is said."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may use the device meanwhile, as those of a training's collectives do.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a capture that fails as it ends leaves its own stream the current one
            warnings.warn(f"a step of sampling stays without a CUDA graph, and slower: {error}", stacklevel=3)
            return
        self._graph = graph
