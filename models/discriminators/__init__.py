"""The discriminators. To add one: its config and class in a file here, and its name in the union below."""

from ..synchronised import synchronise
from .batch_norm import BatchNorm
from .blur_patch import BlurPatchConfig
from .patch import PatchGANConfig
from .style import StyleGANConfig

DiscriminatorConfig = PatchGANConfig | BlurPatchConfig | StyleGANConfig

__all__ = ["BatchNorm", "BlurPatchConfig", "DiscriminatorConfig", "PatchGANConfig", "StyleGANConfig", "synchronise"]
