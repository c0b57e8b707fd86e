"""The discriminators. To add one: its config and class in a file here, and its name in the union below."""

from ..layers.cross_rank_statistics import set_cross_rank_reduce
from .act_norm import ActNorm
from .blur_patchgan import BlurPatchGANConfig
from .patchgan import PatchGANConfig
from .stylegan import StyleGANConfig
from .sync_batch_norm import BatchNorm

DiscriminatorConfig = PatchGANConfig | BlurPatchGANConfig | StyleGANConfig

__all__ = [
    "ActNorm",
    "BatchNorm",
    "BlurPatchGANConfig",
    "DiscriminatorConfig",
    "PatchGANConfig",
    "StyleGANConfig",
    "set_cross_rank_reduce",
]
