"""Conditions that hold for a whole image: none, a class, a text.

Shapes: B samples, C channels of the prior, P tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..bounds import Count, Name, Width, check_ranges
from .base import Fields, SingleCondition


@dataclass(frozen=True)
class UnconditionalConfig:
    """Nothing is known of the image; one learned token starts the sequence."""

    kind: Literal["unconditional"] = "unconditional"

    def build(self, width: int, window: tuple[int, int]) -> "Unconditional":
        """The condition of a prior with ``width`` channels."""
        return Unconditional(width, window)


class Unconditional(SingleCondition):
    """One learned token, the same for every image."""

    def __init__(self, width: int, window: tuple[int, int]) -> None:
        super().__init__(1, width, window)
        self.start = nn.Parameter(0.02 * torch.randn(width))

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, 1, C)."""
        return repeat(self.start, "c -> b 1 c", b=batch)


@dataclass(frozen=True)
class ClassConfig:
    """One of ``classes`` labels an image: the field ``cls``, (B,) int64."""

    kind: Literal["class"] = "class"
    classes: Count = 1000

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self, width: int, window: tuple[int, int]) -> "ClassLabel":
        """The condition of a prior with ``width`` channels."""
        return ClassLabel(self.classes, width, window)


class ClassLabel(SingleCondition):
    """One token an image, from a table of classes."""

    fields = ("cls",)

    def __init__(self, classes: int, width: int, window: tuple[int, int]) -> None:
        super().__init__(1, width, window)
        self.table = nn.Embedding(classes, width)

    @property
    def known(self) -> dict[str, range]:
        """The classes."""
        return {"cls": range(self.table.num_embeddings)}

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, 1, C)."""
        token: Tensor = self.table(self.field(fields, "cls"))
        return rearrange(token, "b c -> b 1 c")


@dataclass(frozen=True)
class TextConfig:
    """Embeddings of a text, made by some language model and stored beside the codes.

    The field ``field`` is (B, tokens, channels) float; an unused token is all zeros and becomes a learned one.
    """

    kind: Literal["text"] = "text"
    field: Name = "text"
    tokens: Width = 77
    channels: Width = 768

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self, width: int, window: tuple[int, int]) -> "Text":
        """The condition of a prior with ``width`` channels."""
        return Text(self, width, window)


class Text(SingleCondition):
    """One token for each token of the text, through a norm and a linear layer."""

    def __init__(self, config: TextConfig, width: int, window: tuple[int, int]) -> None:
        super().__init__(config.tokens, width, window)
        self.fields = (config.field,)
        self.text_shape = (config.tokens, config.channels)
        self.norm = nn.LayerNorm(config.channels)
        self.project = nn.Linear(config.channels, width)
        self.unused = nn.Parameter(0.02 * torch.randn(width))

    def tokens(self, fields: Fields, batch: int) -> Tensor:
        """(B, P, C)."""
        text = self.field(fields, self.fields[0])
        if text.shape[1:] != self.text_shape:
            raise ValueError(
                f"the field {self.fields[0]!r} must be (B, {self.text_shape[0]}, {self.text_shape[1]}), "
                f"got {tuple(text.shape)}; pad or cut the texts when they are embedded"
            )
        used = text.abs().amax(dim=-1, keepdim=True) > 0
        tokens: Tensor = self.project(self.norm(text.to(self.project.weight.dtype)))
        return torch.where(used, tokens, self.unused.to(tokens.dtype))
