"""A tiny tokenizer and priors of its codes, in folders, as exports leave them."""

from pathlib import Path

import torch
from made_tokenizers import CODES, FACTOR, write_tokenizer

from smalti.models.conditions import ClassConfig, CodeMapConfig, UnconditionalConfig
from smalti.models.gpt import GPTConfig
from smalti.models.neighbourhood import NeighbourhoodConfig
from smalti.trainer import weights
from smalti.trainer.config import to_mapping

WINDOW = (3, 4)
CONDITIONS = {"map": CodeMapConfig(codes=7), "class": ClassConfig(classes=5), "none": UnconditionalConfig()}
__all__ = ["CODES", "CONDITIONS", "FACTOR", "WINDOW", "write_pair", "write_prior", "write_tokenizer"]


def write_prior(folder: Path, tokenizer: Path, condition: str = "none", kind: str = "gpt", **told: object) -> Path:
    """A prior with random weights over the tokenizer's codes."""
    shape = {"layers": 1, "heads": 2, "width": 16, "window": WINDOW, "condition_drop": 0.1}
    config = GPTConfig(**shape) if kind == "gpt" else NeighbourhoodConfig(**shape, above=2, beside=1)
    torch.manual_seed(0)
    prior = config.build(CODES, CONDITIONS[condition])
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    card = {
        "task": "prior",
        "model": to_mapping(config),
        "condition": to_mapping(CONDITIONS[condition]),
        "codes": CODES,
        "factor": FACTOR,
        "tokenizer": weights.read_card(tokenizer)["digest"],
        **told,
    }
    folder.mkdir(parents=True)
    weights.write(folder, prior.state_dict(), card)
    return folder


def write_pair(folder: Path, condition: str = "none", kind: str = "gpt") -> tuple[Path, Path]:
    """The folders of a prior and of its tokenizer."""
    tokenizer = write_tokenizer(folder / "tokenizer")
    return write_prior(folder / f"prior-{condition}-{kind}", tokenizer, condition, kind), tokenizer
