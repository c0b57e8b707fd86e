"""The discriminators. To add one: its config and class in a file here, and its name in the union below."""

from ..layers.cross_rank_statistics import synchronise
from .blur_patchgan import BlurPatchConfig
from .patchgan import PatchGANConfig
from .stylegan import StyleGANConfig
from .sync_batch_norm import BatchNorm

DiscriminatorConfig = PatchGANConfig | BlurPatchConfig | StyleGANConfig

__all__ = ["BatchNorm", "BlurPatchConfig", "DiscriminatorConfig", "PatchGANConfig", "StyleGANConfig", "synchronise"]
