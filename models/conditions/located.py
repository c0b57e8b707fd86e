"""Conditions that depend on where in its source a crop lies. Shapes: B samples, (h, w) the window."""

import torch

from .base import Fields, Place, SingleCondition


class Located(SingleCondition):
    """A condition computed from where the window lies.

    Fields: ``box`` (B, 4) = (left, top, right, bottom) and ``source_size`` (B, 2) = (height, width), both in pixels of
    the source; ``flip`` (B,) bool, true where the crop was mirrored after it was cut.
    """

    fields: tuple[str, ...] = ("box", "source_size", "flip")

    def cut(self, fields: Fields, place: Place) -> dict[str, torch.Tensor]:
        """The window's box out of that of a whole picture, mirrored pictures included."""
        left, top, right, bottom = self.field(fields, "box").float().unbind(1)
        flip = self.field(fields, "flip").bool()
        rows, columns = self.window
        height, width = place.size
        first = torch.where(flip, float(width - place.left - columns), float(place.left))
        across, down = (right - left) / width, (bottom - top) / height
        box = (
            left + across * first,
            top + down * place.top,
            left + across * (first + columns),
            top + down * (place.top + rows),
        )
        return super().cut(fields, place) | {"box": torch.stack(box, dim=1)}
