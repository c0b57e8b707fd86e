"""What an edit is conditioned on: the label map of the whole image, which codes are to be made anew, and a guide.

Shapes: B samples, (h, w) any grid, C channels, N blocks of the grid.
"""

import torch
from torch import Tensor, nn

from .base import Fields, SingleCondition
from .code_map import CodeMapConfig

MASKED = "masked"
"""(B, h, w) bool: the codes to be made anew."""

BEFORE = "segmentation_codes_before"
"""(B, h, w) int64: the codes of the map before it was edited, from which guidance leads away."""

GUIDE = ("guide_encoder", "guide_decoder", "guide_cross")
"""(B, layers, heads, N, N) each: how much each block looks at each in a guide's attentions."""


class Edit(SingleCondition):
    """A vector for each code of a map on the grid of the image, of any size; no prefix of tokens.

    Samples that are dropped get those of the map before it was edited, where the batch has it.

    Args:
        config: of the map's codes.
        width: channels C of the editor.
        window: of the editor, in codes.
        guided: whether a guide says which blocks are looked at.
    """

    optional = (BEFORE,)

    def __init__(self, config: CodeMapConfig, width: int, window: tuple[int, int], guided: bool) -> None:
        super().__init__(0, width, window)
        self.fields = (config.field, MASKED, *(GUIDE if guided else ()))
        self.table = nn.Embedding(config.vocab_size, width)

    @property
    def known(self) -> dict[str, range]:
        """The map's codes."""
        return {self.fields[0]: range(self.table.num_embeddings)}

    def forward(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """(B, h, w, C), of grids of any size."""
        vectors: Tensor = self.table(self.field(fields, self.fields[0]))
        instead = self.table(fields[BEFORE]) if BEFORE in fields else self.absent.to(vectors.dtype)
        gone = torch.zeros(batch, dtype=torch.bool, device=vectors.device) if dropped is None else dropped
        return torch.where(gone[:, None, None, None], instead, vectors)
