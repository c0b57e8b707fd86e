"""A condition that is itself an image, seen through a second frozen tokenizer: one code for each code.

Segmentation, depth, edges, key points: whatever has been drawn as an image and encoded, or labels pooled to the grid.
Shapes: B samples, (h, w) the window, (H, W) a whole grid, C channels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..bounds import Count, Name, check_ranges
from .base import Fields, SingleCondition, WindowLocations, window_cells

LABELS = 256  # values of an 8-bit map


@dataclass(frozen=True)
class CodeMapConfig:
    """Codes of the condition on the same grid as the image's: the field ``field``, (B, h, w) int64."""

    kind: Literal["code_map"] = "code_map"
    field: Name = "segmentation_codes"
    vocab_size: Count = 1024  # of the condition's tokenizer, a vocabulary of its own

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self, width: int, window: tuple[int, int]) -> "CodeMap":
        """The condition of a prior with ``width`` channels that is trained on ``window`` codes."""
        return CodeMap(self, width, window)


class CodeMap(SingleCondition):
    """One token for each cell of the window, in raster order."""

    def __init__(self, config: CodeMapConfig, width: int, window: tuple[int, int]) -> None:
        super().__init__(window[0] * window[1], width, window)
        self.fields = (config.field,)
        self.table = nn.Embedding(config.vocab_size, width)

    @property
    def known(self) -> dict[str, range]:
        """The codes."""
        return {self.fields[0]: range(self.table.num_embeddings)}

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, h * w, C)."""
        codes = self.field(fields, self.fields[0])
        if codes.shape[1:] != self.window:
            raise ValueError(
                f"the field {self.fields[0]!r} must cover the prior's window of {self.window} codes, "
                f"got {tuple(codes.shape[1:])}; cut it where the image's codes are cut"
            )
        tokens: Tensor = self.table(rearrange(codes, "b h w -> b (h w)"))
        return tokens

    def windows(self, fields: Fields, places: WindowLocations) -> dict[str, Tensor]:
        """The windows' codes out of those of whole images."""
        codes = self.field(fields, self.fields[0])
        if codes.shape[1:] != places.size:
            raise ValueError(
                f"the field {self.fields[0]!r} must have the image's {places.size} codes, "
                f"got {tuple(codes.shape[1:])}; "
                "encode the condition at the size of the image"
            )
        rows, columns = places.pixels(self.window)
        return {self.fields[0]: codes[places.images[:, None, None], rows, columns]}

    def cells(self) -> Tensor:
        """Each token stands at the cell that it describes."""
        return window_cells(self.window)


def majority_label(labels: Tensor, rows: int, columns: int) -> Tensor:
    """The commonest label in each cell of a grid laid over a map; the lowest of those that are equally common.

    Args:
        labels: (H, W) integers in [0, 256).
        rows, columns: of the grid; a cell takes the map's pixels whose centers lie in it.

    Returns:
        (rows, columns) uint8.

    Raises:
        ValueError: a label is 256 or more.
    """
    if int(labels.max()) >= LABELS:
        raise ValueError(f"labels must lie below {LABELS}, got {int(labels.max())}; give a tokenizer of such maps")
    height, width = labels.shape
    cell = (torch.arange(height) * rows // height)[:, None] * columns + torch.arange(width) * columns // width
    votes = torch.bincount((cell * LABELS + labels).flatten(), minlength=rows * columns * LABELS)
    return votes.view(rows, columns, LABELS).argmax(-1).to(torch.uint8)
