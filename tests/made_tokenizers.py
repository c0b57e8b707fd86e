"""A tiny tokenizer in a folder, as an export leaves it."""

from pathlib import Path

import torch

from smalti.models.quantizers import VQConfig
from smalti.models.vqgan import VQGANConfig
from smalti.trainer import weights
from smalti.trainer.config import to_mapping

FACTOR = 4
CODES = 32


def write_tokenizer(folder: Path, seed: int = 0, labels: int | None = None) -> Path:
    """Random weights: 4 pixels a code, 32 codes, all of which turn up."""
    config = VQGANConfig(
        channels=8,
        multipliers=(1, 1, 2),
        residual_blocks=1,
        attention_resolutions=(),
        middle_attention=False,
        z_channels=4,
        embed_dim=4,
        norm_groups=4,
        labels=labels,
        quantizer=VQConfig(codes=CODES),
    )
    torch.manual_seed(seed)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # untrained features hardly differ; these spread over the codes
    folder.mkdir(parents=True)
    card = {"task": "vqgan", "factor": FACTOR, "codes": CODES, "model": to_mapping(config)}
    weights.write(folder, model.state_dict(), card)
    return folder
