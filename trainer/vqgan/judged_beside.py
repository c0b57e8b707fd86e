"""What the discriminator sees beside an image: an aligned field of its sample, the reference's ``disc_conditional``.

Shapes: B samples, H rows and W columns, C channels of the field.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...models.bounds import Count, check_ranges
from ..data.collate import Batch
from ..data.inputs import target


@dataclass(frozen=True)
class JudgedBesideConfig:
    """A field of the samples, whose channels follow those of the real image and of its reconstruction.

    Attributes:
        field: "segmentation" gives a channel of zeros and ones for each label, unlabelled places none; "depth" one
            channel in [-1, 1].
        num_labels: of a segmentation.
    """

    field: Literal["segmentation", "depth"] = "depth"
    num_labels: Count | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.field == "segmentation") != (self.num_labels is not None):
            raise ValueError(
                f"field: segmentation and num_labels go together, got {self.field} and {self.num_labels}; say how many "
                "labels the maps have"
            )

    @property
    def channels(self) -> int:
        """C."""
        return self.num_labels or 1

    def of(self, batch: Batch) -> Tensor:
        """(B, C, H, W) float32 of a batch, on this rank's device."""
        values = target(batch, self.field)
        if self.num_labels is None:
            return values
        known = values.clamp(max=self.num_labels)  # 255 and 65535 mark places without a label
        return rearrange(F.one_hot(known, self.num_labels + 1)[..., :-1].float(), "b h w c -> b c h w")
