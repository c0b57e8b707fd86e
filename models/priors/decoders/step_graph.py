"""A step of sampling as one CUDA graph: captured once, then replayed; on other devices it is called as it is.

A step has fixed shapes and waits for nothing, so its hundreds of kernels need not be launched one by one.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

EAGER_CALLS = 2
"""Calls before the capture: they load kernels and fill the allocator, and their results count like any others."""


class StepGraph:
    """Calls a function of tensors; on CUDA by a graph from the third call on.

    Args:
        function: of tensors that have the same shapes in every call, to a tensor. What else it reads or writes, such as
            weights and caches, must stay where it is. It must not wait for the device.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result; on CUDA it is valid until the next call."""
        self._calls += 1
        if self._calls == EAGER_CALLS + 1 and inputs[0].is_cuda:
            self._capture(inputs)
        if self._graph is None or self._output is None:
            return self._function(*inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        """Record the function, without running it; where that cannot be done, it stays as it is, and that is said."""
        graph, held = torch.cuda.CUDAGraph(), tuple(given.clone() for given in inputs)
        stream = torch.cuda.current_stream()
        try:
            # Other threads may use the device meanwhile, as those of a training's collectives do.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                output = self._function(*held)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a capture that fails as it ends leaves its own stream the current one
            warnings.warn(f"a step of sampling stays without a CUDA graph, and slower: {error}", stacklevel=3)
            return
        self._graph, self._inputs, self._output = graph, held, output
