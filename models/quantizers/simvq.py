"""A fixed random codebook seen through one trained linear map that moves all codes: Zhu et al. 2024 (SimVQ)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bounds import Count, Weight, check_ranges
from ..layers.float32_buffers import Float32Buffers
from .base import Quantizer, QuantizerOutput, flatten_grid, straight_through, unflatten_grid
from .vq import check_codebook, nearest_codes


@dataclass(frozen=True)
class SimVQConfig:
    """A codebook that cannot collapse: no code is trained alone."""

    kind: Literal["simvq"] = "simvq"
    can_replace_codes: ClassVar[bool] = False
    codebook_size: Count = 16_384
    commitment_weight: Weight = 0.25  # weight of the commitment
    codebook_weight: Weight = 1.0  # of the whole loss
    dimension: ClassVar[None] = None  # takes features of any width

    def __post_init__(self) -> None:
        check_ranges(self)
        check_codebook(self.codebook_size)

    def build(self, dim: int) -> "ProjectedQuantizer":
        """A quantizer of features with ``dim`` channels."""
        return ProjectedQuantizer(self, dim)


class ProjectedQuantizer(Float32Buffers, Quantizer):
    """Replaces every feature by the nearest of the projected codes."""

    frozen: Tensor

    def __init__(self, config: SimVQConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.register_buffer("frozen", torch.randn(config.codebook_size, dim) * dim**-0.5)  # (K, C)
        self.projection = nn.Linear(dim, dim, bias=False)

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantizes (B, C, h, w); the loss is that of VQ, its codebook's term moving the projection."""
        rows = flatten_grid(z)
        indices, chosen = nearest_codes(rows, self._project(self.frozen))
        loss = F.mse_loss(chosen, rows.detach()) + self.config.commitment_weight * F.mse_loss(rows, chosen.detach())
        return QuantizerOutput(
            straight_through(unflatten_grid(chosen, z), z),
            unflatten_grid(indices, z),
            self.config.codebook_weight * loss,
        )

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) codes to their (B, C, h, w) features."""
        return unflatten_grid(self._project(F.embedding(indices.flatten(), self.frozen)), indices[:, None])

    def _project(self, codes: Tensor) -> Tensor:
        """(K, C) fixed codes to where they are now, float32."""
        with torch.autocast(codes.device.type, enabled=False):
            projected: Tensor = self.projection(codes.to(self.projection.weight.dtype))
        return projected.float()
