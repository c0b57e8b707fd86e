"""A text as LlamaGen's priors read it (Sun et al. 2024): embeddings through a perceptron, unused ones hidden.

Shapes: B samples, P tokens, E channels of an embedding, C channels of the prior.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..bounds import Name, Width, check_ranges
from .base import Condition, Fields


@dataclass(frozen=True)
class CaptionConfig:
    """Embeddings of a text, made by some language model: the field ``field``, (B, tokens, channels) float.

    An unused token is all zeros, and no other token attends to it. LlamaGen puts the used ones last, before the image.
    """

    kind: Literal["caption"] = "caption"
    field: Name = "text"
    tokens: Width = 120
    channels: Width = 2048

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self, width: int, window: tuple[int, int]) -> "Caption":
        """The condition of a prior with ``width`` channels."""
        return Caption(self, width, window)


class Caption(Condition):
    """One token for each embedding; a lost text has learned embeddings of its own, and hides what the text hid."""

    hides_tokens = True

    def __init__(self, config: CaptionConfig, width: int, window: tuple[int, int]) -> None:
        super().__init__(config.tokens, window)
        self.fields = (config.field,)
        self.text_shape = (config.tokens, config.channels)
        self.absent = nn.Parameter(torch.randn(config.tokens, config.channels) / config.channels**0.5)
        self.project = nn.Sequential(
            nn.Linear(config.channels, width, bias=False), nn.GELU("tanh"), nn.Linear(width, width, bias=False)
        )

    def forward(self, fields: Fields, batch: int, dropped: Tensor | None = None) -> Tensor:
        """See ``Condition``."""
        tokens: Tensor = self.project(self._text(fields).to(self.absent.dtype))
        if dropped is None:
            return tokens
        return torch.where(dropped[:, None, None], self.project(self.absent), tokens)

    def hidden(self, fields: Fields) -> Tensor:
        """(B, P) bool, the unused tokens."""
        return (self._text(fields) == 0).all(dim=-1)

    def _text(self, fields: Fields) -> Tensor:
        text = self.field(fields, self.fields[0])
        if text.shape[1:] != self.absent.shape:
            raise ValueError(
                f"the field {self.fields[0]!r} must be (B, {self.absent.shape[0]}, {self.absent.shape[1]}), got "
                f"{tuple(text.shape)}; pad or cut the texts when they are embedded"
            )
        return text
