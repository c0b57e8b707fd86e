"""Several conditions at once: their prefixes one behind the other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Condition, Fields, WindowLocations


class Composite(Condition):
    """The prefixes of all parts, in their order; dropout and guidance drop them together."""

    def __init__(self, parts: list[Condition], window: tuple[int, int]) -> None:
        super().__init__(sum(part.length for part in parts), window)
        self.parts = nn.ModuleList(parts)
        self.hides_tokens = any(part.hides_tokens for part in parts)
        self.fields = tuple(dict.fromkeys(name for part in parts for name in part.fields))

    def forward(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """See ``Condition``."""
        return torch.cat([part(fields, batch, dropped) for part in self.parts], dim=1)

    def hidden(self, fields: Fields) -> Tensor:
        """What the parts hide."""
        batch = len(next(iter(fields.values())))
        return torch.cat(
            [
                part.hidden(fields)
                if part.hides_tokens
                else torch.zeros(batch, part.length, dtype=torch.bool, device=next(iter(fields.values())).device)
                for part in self._each()
            ],
            dim=1,
        )

    def windows(self, fields: Fields, places: WindowLocations) -> dict[str, Tensor]:
        """The windows' share of every part's fields."""
        cut: dict[str, Tensor] = {}
        for part in self._each():
            cut |= part.windows(fields, places)
        return cut

    def for_training(self, fields: Fields, seeds: Sequence[int]) -> Fields:
        """What every part makes of the batch, one after the other."""
        for part in self._each():
            fields = part.for_training(fields, seeds)
        return fields

    def cells(self) -> Tensor:
        """Where the parts' tokens stand."""
        return torch.cat([part.cells() for part in self._each()])

    @property
    def known(self) -> dict[str, range]:
        """What every part that reads a field knows of it."""
        known: dict[str, range] = {}
        for part in self._each():
            for name, values in part.known.items():
                others = known.get(name, values)
                known[name] = range(max(values.start, others.start), min(values.stop, others.stop))
        return known

    def _each(self) -> list[Condition]:
        return [part for part in self.parts if isinstance(part, Condition)]
