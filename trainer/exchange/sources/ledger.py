"""Every tensor of a source is accounted for: used for something, dropped for a reason, or refused."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .stored_tensors import StoredTensor

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 5  # names in a message
EXACT = (torch.float32, torch.float16, torch.bfloat16)  # types whose every number float32 has too


class Ledger:
    """The tensors of one source and what became of each.

    Args:
        tensors: of the source.
        source: its name, for messages.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor], source: str) -> None:
        self.source = source
        self.used: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self._tensors = tensors

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors under a prefix, by the rest of their names."""
        return {name[len(prefix) :]: t.shape for name, t in self._tensors.items() if name.startswith(prefix)}

    def drop(self, pattern: str, reason: str) -> None:
        """Leave out what a pattern matches from the start of its name."""
        self.dropped |= {name: reason for name in self._tensors if re.match(pattern, name) and name not in self.used}

    def take(self, name: str, purpose: str) -> Tensor:
        """A tensor in float32, exactly; whole numbers as int64.

        Raises:
            ValueError: it is not there, or has a type whose numbers float32 does not have.
        """
        if name not in self._tensors:
            raise ValueError(f"{self.source} lacks {name}")
        stored = self._tensors[name]
        if stored.dtype == torch.int64:
            tensor = stored.load()
        elif stored.dtype in EXACT:
            tensor = stored.load().float()
        else:
            raise ValueError(f"{self.source}: {name} has the type {stored.dtype}, and weights are {_types()}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{self.source}: {name} holds numbers that are not finite")
        self.used[name] = purpose
        self.dropped.pop(name, None)
        return tensor

    def fill(self, wanted: Shapes, names: Mapping[str, str], purpose: str, squeezed: bool = False) -> dict[str, Tensor]:
        """The tensors of a network.

        Args:
            wanted: the shapes of its tensors.
            names: where each of them is found in the source.
            purpose: what the network is.
            squeezed: whether 1x1 convolutions may be matrices in the source.

        Raises:
            ValueError: some are missing or have another shape; all of them are named before any is read.
        """
        missing = [names[name] for name in wanted if names[name] not in self._tensors]
        if missing:
            raise ValueError(f"{self.source} lacks {_listed(missing)}, which this {purpose} has")
        wrong = [
            f"{names[name]} is {self._tensors[names[name]].shape} and should be {shape}"
            for name, shape in wanted.items()
            if not _fits(self._tensors[names[name]].shape, shape, squeezed)
        ]
        if wrong:
            raise ValueError(f"{self.source} holds another network than its other sizes say: {_listed(wrong)}")
        return {name: self.take(names[name], purpose).reshape(shape) for name, shape in wanted.items()}

    def close(self) -> None:
        """Refuse what has not been accounted for.

        Raises:
            ValueError: naming it.
        """
        unknown = [name for name in self._tensors if name not in self.used and name not in self.dropped]
        if unknown:
            raise ValueError(
                f"{self.source} holds {len(unknown)} tensors that no part of the network has: {_listed(unknown)}; "
                "it is of another model, or of a variant that cannot be imported"
            )

    def report(self) -> dict[str, dict[str, str]]:
        """What became of every tensor."""
        return {"used": dict(sorted(self.used.items())), "dropped": dict(sorted(self.dropped.items()))}


def numbered(shapes: Shapes, pattern: str) -> int:
    """How many numbers a pattern finds in the names: 0, 1, 2 and so on, or a ValueError."""
    found = {int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match}
    if found != set(range(len(found))):
        raise ValueError(f"the names {pattern} count {sorted(found)}, with gaps")
    return len(found)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...], squeezed: bool) -> bool:
    return found == wanted or (squeezed and wanted[2:] == (1, 1) and found == wanted[:2])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _types() -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in EXACT)
