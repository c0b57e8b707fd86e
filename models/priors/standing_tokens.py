"""What a condition says at every cell of a window: its tokens added where they stand.

Shapes: B samples, P tokens of the condition, (h, w) the window, C channels.
"""

from einops import rearrange
from torch import Tensor, nn

from ..conditions import WHOLE_IMAGE, Condition


class StandingTokens(nn.Module):
    """Lays the tokens of a condition over a window; it has no parameters.

    Args:
        condition: whose tokens they are. It stays the prior's own.
    """

    stands: Tensor  # (P, 1) 1 for tokens that stand at a cell
    stands_at: Tensor  # (P,) the raster numbers of their cells, 0 for the others
    everywhere: Tensor  # (P, 1) how much the others count at every cell

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        self.window = condition.window
        # Shapes know nothing of the numbers, so that a prior can be laid out where there are none.
        tokens = condition.cells()
        stands = tokens[:, 0] != WHOLE_IMAGE
        others = (~stands).float()
        for name, buffer in {
            "stands": stands.float()[:, None],
            "stands_at": (tokens[:, 0] * self.window[1] + tokens[:, 1]).where(stands, 0),
            "everywhere": (others / others.sum().clamp(min=1))[:, None],
        }.items():
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, C) tokens to (B, h, w, C); the mean of tokens that stand nowhere is added everywhere."""
        rows, columns = self.window
        local = (tokens * self.everywhere.to(tokens.dtype)).sum(dim=1, keepdim=True)
        local = local.expand(-1, rows * columns, -1)
        local = local.index_add(1, self.stands_at, tokens * self.stands.to(tokens.dtype))
        return rearrange(local, "b (h w) c -> b h w c", h=rows)
