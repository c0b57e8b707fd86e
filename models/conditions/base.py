"""What every condition of a prior is: a prefix of tokens made from fields of the batch.

Shapes: B samples, P tokens of the prefix, C channels of the prior, (h, w) the prior's window, (H, W) a whole grid.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Fields = Mapping[str, Tensor]
"""The named tensors of a batch, each with B rows."""


WHOLE_IMAGE = -1
"""The row and the column of a token that stands at no cell."""


class CropLocation(NamedTuple):
    """Where a window lies in the grid of a whole image, in codes."""

    top: int
    left: int
    size: tuple[int, int]  # (H, W): rows and columns of the whole grid


class WindowLocations(NamedTuple):
    """Windows of whole images; where each lies is known to the device alone."""

    images: Tensor  # (n,) int64, the image's row in the batch
    tops: Tensor  # (n,) int64, in codes
    lefts: Tensor  # (n,) int64
    size: tuple[int, int]  # (H, W) codes of every whole grid

    def pixels(self, window: tuple[int, int], scale: int = 1) -> tuple[Tensor, Tensor]:
        """Rows (n, h * scale, 1) and columns (n, 1, w * scale) of the windows, in ``scale`` pixels a code."""
        device = self.tops.device
        down, across = (torch.arange(side * scale, device=device) for side in window)
        return (self.tops[:, None] * scale + down)[:, :, None], (self.lefts[:, None] * scale + across)[:, None]


class Condition(nn.Module):
    """A prefix of ``length`` tokens for windows of ``window`` codes; subclasses say from which ``fields``.

    Its tables are its own: no token of a condition shares a vector with a code of the image. Everything that uses a
    parameter happens inside ``forward``, where partitioned parameters (ZeRO stage 3) are at hand.
    """

    fields: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # fields that are read where a batch has them
    hides_tokens: bool = False  # whether ``hidden`` may name tokens that no other one attends to

    def __init__(self, length: int, window: tuple[int, int]) -> None:
        super().__init__()
        self.length = length
        self.window = window

    def forward(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """The (B, P, C) prefix of a batch; every field belongs to the window itself.

        Args:
            fields: the batch; names that the condition does not know are ignored.
            batch: B, for conditions that read no field.
            dropped: (B,) bool, samples that get a learned prefix of no condition at all, for dropout and guidance.

        Raises:
            KeyError: the batch lacks a field.
            ValueError: a field has the wrong shape.
        """
        raise NotImplementedError

    def hidden(self, fields: Fields) -> Tensor:
        """(B, P) bool, the tokens that no other one attends to, of a condition that hides tokens."""
        raise NotImplementedError

    def cut(self, fields: Fields, place: CropLocation) -> dict[str, Tensor]:
        """One window's share of fields that describe whole images, a row for each image; see ``windows``."""
        if not self.fields:
            return {}
        images = torch.arange(len(self.field(fields, self.fields[0])), device=fields[self.fields[0]].device)
        tops, lefts = torch.full_like(images, place.top), torch.full_like(images, place.left)
        return self.windows(fields, WindowLocations(images, tops, lefts, place.size))

    def windows(self, fields: Fields, places: WindowLocations) -> dict[str, Tensor]:
        """The share of n windows, a row for each, of fields that describe B whole images; the host waits for nothing.

        What holds for a whole image passes unchanged.

        Raises:
            KeyError, ValueError: a field is missing, or not of the images' size.
        """
        return {name: self.field(fields, name).index_select(0, places.images) for name in self.fields}

    def for_training(self, fields: Fields, seeds: Sequence[int]) -> Fields:
        """A training batch as the condition reads it where it tells the same thing otherwise at every visit.

        Sample b depends on ``seeds[b]`` alone, as in ``Prior.draw``; most conditions leave the batch as it is.
        """
        return fields

    @property
    def known(self) -> dict[str, range]:
        """The numbers of each field for which there is a vector, of fields that are looked up in tables."""
        return {}

    def cells(self) -> Tensor:
        """(P, 2) int64 rows and columns of the window at which the tokens stand; ``NOWHERE`` for those that do not.

        On the CPU, even where a default device says otherwise, so that models can be laid out on the meta device.
        """
        return torch.full((self.length, 2), WHOLE_IMAGE, device="cpu")

    def field(self, fields: Fields, name: str) -> Tensor:
        """One field of the batch, or a KeyError that names those at hand."""
        if name not in fields:
            raise KeyError(f"the prior's condition needs the field {name!r}; the batch has {sorted(fields)}")
        return fields[name]


class SingleCondition(Condition):
    """A condition of one kind: ``tokens`` makes its prefix, ``absent`` is the vector that stands for its absence."""

    def __init__(self, length: int, width: int, window: tuple[int, int]) -> None:
        super().__init__(length, window)
        self.absent = nn.Parameter(0.02 * torch.randn(width))  # a norm of zeros would have huge gradients

    def forward(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """See ``Condition``."""
        tokens = self.tokens(fields, batch)
        if dropped is None:
            return tokens
        return torch.where(dropped[:, None, None], self.absent.to(tokens.dtype), tokens)

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """The (B, P, C) prefix of a batch; called inside ``forward`` alone."""
        raise NotImplementedError


def window_cells(window: tuple[int, int]) -> Tensor:
    """(h * w, 2) int64 rows and columns of a window's cells, in raster order."""
    rows, columns = window
    return torch.cartesian_prod(torch.arange(rows, device="cpu"), torch.arange(columns, device="cpu"))
