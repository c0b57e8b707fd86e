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

    standing: Tensor  # numbers of the condition's tokens that stand at a cell
    stands_at: Tensor  # the raster numbers of their cells
    nowhere: Tensor  # numbers of the others

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        self.window = condition.window
        tokens = condition.cells()
        stands = tokens[:, 0] != WHOLE_IMAGE
        for name, buffer in {
            "standing": stands.nonzero()[:, 0],
            "stands_at": (tokens[:, 0] * self.window[1] + tokens[:, 1])[stands],
            "nowhere": (~stands).nonzero()[:, 0],
        }.items():
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, C) tokens to (B, h, w, C); the mean of tokens that stand nowhere is added everywhere."""
        rows, columns = self.window
        local = tokens.new_zeros(len(tokens), rows * columns, tokens.shape[2])
        local = local.index_add(1, self.stands_at, tokens[:, self.standing])
        if len(self.nowhere):
            local = local + tokens[:, self.nowhere].mean(dim=1, keepdim=True)
        return rearrange(local, "b (h w) c -> b h w c", h=rows)
