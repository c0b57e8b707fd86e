"""Averaged weights of a module that may be partitioned: each rank averages what it holds, nothing is gathered."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..checkpoint.resharding import reshard_like


class EMA:
    """The exponential moving average of a module's trained parameters, in fp32.

    Every rank keeps the average of the part that ``local_shard`` shows it, so the cost falls with ZeRO 3 as the weights
    do. The decay grows to its value with the steps, min(decay, (1 + step) / (10 + step)), so that a short run has one
    too.

    Args:
        decay: of the average, in [0, 1); 0 is the weights themselves, and nothing is kept.
        local: what this rank holds of a parameter; all of it, or its partition.
        release: drops the whole parameters that the engine has gathered and still keeps: beside a partition that is
            rewritten they would go on with the old weights.
    """

    def __init__(
        self,
        module: nn.Module,
        decay: float,
        local: Callable[[nn.Parameter], Tensor],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averaged weights must be in [0, 1), got {decay}")
        self.decay = decay
        self._local = local
        self._release = release
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        kept = self._parameters if decay else {}
        self._average = {name: local(p).detach().float().clone() for name, p in kept.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an optimizer step."""
        keep = min(self.decay, (1 + step) / (10 + step))
        if self._average:
            weights = [self._local(self._parameters[name]).float() for name in self._average]
            torch._foreach_lerp_(list(self._average.values()), weights, 1 - keep)

    def values(self) -> dict[str, Tensor]:
        """What this rank holds of the average: of the weights themselves where there is none."""
        return self._average or {name: self._local(p).detach() for name, p in self._parameters.items()}

    @contextmanager
    def applied(self, values: dict[str, Tensor] | None = None) -> Iterator[None]:
        """Inside, the module's weights are the average, or what ``values`` once gave.

        Every rank must enter where the module is partitioned.
        """
        wanted = values or self._average
        if not wanted:
            yield
            return
        kept = {name: self._local(p).detach().clone() for name, p in self._parameters.items()}
        try:
            self._put(wanted)
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        self._release()
        for name, parameter in self._parameters.items():
            self._local(parameter).copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """What this rank must find again after a restart."""
        return dict(self._average)

    def resharded(self, states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``state`` would have given here, from what it gave on the ranks of another job, in their order."""
        return {name: reshard_like(self._parameters[name], [state[name] for state in states]) for name in states[0]}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave.

        Raises:
            ValueError: it is the average of another module, or of another sharding of it.
        """
        if {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in self._average.items()}:
            raise ValueError(
                "the averaged weights in the checkpoint have other names or shapes than this module's; "
                "was it saved from another model or on another number of ranks?"
            )
        for name, value in state.items():
            self._average[name].copy_(value)
