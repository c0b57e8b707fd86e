"""The shapes of the tokenizers that a prior's run is trained with, from their metadata."""

from pathlib import Path

from ...models.vqgan.autoencoder import VQGANConfig
from ...models.vqgan.palette import PaletteConfig
from .. import config as configs
from ..checkpoint.loading import tokenizer_config, tokenizer_ref
from ..jobs.run import Run
from ..prior.config import PriorRun


def tokenizer_configs(run: Run, codes: int | None = None) -> dict[str, VQGANConfig | PaletteConfig]:
    """The tokenizers of a prior's run, the images' under "image" and others by their field; none of a VQGAN's.

    Args:
        codes: K, where the tokenizer itself is not on this machine.

    Raises:
        ValueError: a tokenizer's folder holds none.
    """
    if not isinstance(run, PriorRun):
        return {}
    if codes is not None:
        return {"image": _with_codes(codes)}
    found: dict[str, VQGANConfig | PaletteConfig] = {}
    for field, folder in {"image": run.tokenizer, **run.condition_tokenizers}.items():
        try:
            ref = tokenizer_ref(Path(folder))
        except ValueError as error:
            raise ValueError(f"{error}; or give the number of its codes with --codes") from None
        found[field] = tokenizer_config(ref)
    return found


def _with_codes(codes: int) -> VQGANConfig:
    default = configs.to_mapping(VQGANConfig())
    quantizer = {**default["quantizer"], "codebook_size": codes}
    built: VQGANConfig = configs.from_mapping(VQGANConfig, {**default, "quantizer": quantizer}, "--codes")
    return built
