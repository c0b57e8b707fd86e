"""Operators that give the same bits every time, on GPUs too, at the price of their speed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_WORKSPACE = ":4096:8"  # eight buffers of 4 MB for each stream: cuBLAS then adds in a fixed order


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Where enabled, operators have a fixed order of additions in this block, and cuDNN does not time any.

    Enter it before the first product on a GPU, for cuBLAS reads its environment once. torch warns of an operator that
    it has no such version of, and names it; inductor's kernels are not tuned by timing.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    _set(True, True, True, False, fill=False)  # fresh memory is never read here, and filling it costs a pass
    try:
        yield
    finally:
        _set(*before[:4], fill=before[4])


def _set(enabled: bool, warn_only: bool, cudnn: bool, benchmark: bool, fill: bool) -> None:
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.backends.cudnn.deterministic = cudnn
    torch.backends.cudnn.benchmark = benchmark
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
