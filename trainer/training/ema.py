"""Averaged weights: each rank averages, in fp32, the part of the network that it owns; nothing is gathered for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..checkpoint.resharding import cut, joined
from ..distributed.owned_weights import OwnedWeights


class EMA:
    """The exponential moving average of trained parameters, in fp32.

    Below ZeRO 3 it follows the optimizer's fp32 masters, not their rounded copies. The decay grows to its value with
    the steps, min(decay, (1 + step) / (10 + step)), so that a short run has one too.

    Args:
        owned: what this rank owns of the network.
        decay: of the average, in [0, 1); 0 is the weights themselves, and nothing is kept.
    """

    def __init__(self, owned: OwnedWeights, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averaged weights must be in [0, 1), got {decay}")
        self.decay = decay
        self._owned = owned
        self._average = [value.detach().float().clone() for value in owned.values()] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an optimizer step."""
        keep = min(self.decay, (1 + step) / (10 + step))
        if self._average:
            torch._foreach_lerp_(self._average, [value.float() for value in self._owned.values()], 1 - keep)

    def values(self) -> dict[str, Tensor]:
        """What this rank keeps of the average by the parameters' names, flat: of the weights where there is none."""
        return self._named(self._average or self._owned.values())

    @contextmanager
    def applied(self, values: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Inside, the module's weights are the average, or what ``values`` once gave.

        Every rank must enter, and all of them with values or without.
        """
        if values is None and not self._average:
            yield
            return
        wanted = self._average if values is None else self._flat(values)
        kept = [value.clone() for value in self._owned.live()]
        try:
            self._owned.put(wanted)
            yield
        finally:
            self._owned.release()
            for live, value in zip(self._owned.live(), kept, strict=True):
                live.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """What this rank must find again after a restart."""
        return self._named(self._average) if self._average else {}

    def resharded(self, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What ``values`` would have given here, from what it gave on the ranks of another job, in their order.

        Raises:
            ValueError: they hold other parameters.
        """
        names = {name for state in states for name in state}
        if names and names != set(self._owned.sizes):
            raise ValueError(_another(names ^ set(self._owned.sizes)))
        mine: dict[str, Tensor] = {}
        for name in self._owned.parts if names else ():
            parts = [state[name] for state in states if name in state]
            mine[name] = self._part(name, joined(parts, self._owned.sizes[name]))
        return mine

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave, or whole parameters, as checkpoints held them once.

        Raises:
            ValueError: it is the average of another module, or of another sharding of it.
        """
        parts = self._owned.parts if self._average else {}
        known = set(self._owned.sizes) if self._average else set()
        if not set(parts) <= set(state) <= known:
            raise ValueError(_another(set(state) ^ set(parts)))
        flat = self._flat(state) if self._average else []
        for average, value in zip(self._average, flat, strict=True):
            average.copy_(value)

    def _named(self, flat: Sequence[Tensor]) -> dict[str, Tensor]:
        parts = self._owned.parts.items()
        return {name: flat[part.tensor][part.start : part.start + part.numel] for name, part in parts}

    @torch.no_grad()
    def _flat(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        flat = [torch.zeros_like(value, dtype=torch.float32) for value in self._owned.values()]
        for name, mine in self._named(flat).items():
            mine.copy_(self._part(name, values[name].flatten()))
        return flat

    def _part(self, name: str, value: Tensor) -> Tensor:
        """This rank's part of a parameter, from that part or from the whole."""
        part, size = self._owned.parts[name], self._owned.sizes[name]
        if value.numel() == part.numel:
            return value
        if value.numel() != size:
            raise ValueError(_another({name}))
        return cut(value, part.offset, part.numel)


def _another(names: set[str]) -> str:
    return (
        "the averaged weights in the checkpoint have other names or shapes than this module's "
        f"({', '.join(sorted(names)[:5])}); was it saved from another model or on another number of ranks?"
    )
