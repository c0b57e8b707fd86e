"""What a computation costs, without doing it: operations and bytes alive, on tensors that have shapes and no numbers.

Torch's fake tensors run the real code of the networks and of autograd, so nothing here knows how a network is built.
"""

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]


class Cost(NamedTuple):
    """What something costs."""

    flops: float  # a multiplication and an addition are two
    bytes: int  # of tensors that it made, alive at its fullest moment


def _forward(query: Shape, key: Shape, value: Shape, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    """Two products over the pairs that see each other."""
    return 2 * _product(query, key, causal)


def _backward(
    out: Shape, query: Shape, key: Shape, value: Shape, o: Shape, sums: Shape, dropout: float, causal: bool, **_: Any
) -> int:
    """Five: the scores once more, for they are not kept, and the gradients of both products."""
    return 5 * _product(query, key, causal)


def _product(query: Shape, key: Shape, causal: bool) -> int:
    """A product of (B, heads, T, d) with (B, heads, S, d); kernels skip blocks above a causal diagonal."""
    whole = 2 * math.prod(query) * key[-2]
    return whole * (key[-2] + 1) // (2 * key[-2]) if causal else whole


# Torch has formulas for the kernels of GPUs alone, and its simulation picks that of CPUs.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}


class Meter:
    """Counts what is done inside ``simulated``."""

    def __init__(self) -> None:
        self._operations = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
        self._memory = _Alive()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, everything is counted."""
        with self._operations, self._memory:
            yield

    @property
    def cost(self) -> Cost:
        """Of all that was counted."""
        return Cost(float(self._operations.get_total_flops()), self._memory.most)


@contextmanager
def simulated(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside, new tensors have shapes only, and new networks have weights of this type."""
    before = torch.get_default_dtype()
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def forget_gradients(network: nn.Module) -> None:
    """Drop every gradient of a weight as soon as it is there: gradients are counted with the weights, not here."""

    def forget(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(forget)  # type: ignore[no-untyped-call]


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, until they are dropped."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id(part.untyped_storage()) for part in _tensors((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for part in _tensors(result):
            storage = part.untyped_storage()
            if id(storage) not in self._known and id(storage) not in given:  # else a view, or written in place
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, tree)
    return found
