"""Tiny tokenizers, code shards and runs of priors for the tests of stage 2."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_pictures import encoded
from numpy.typing import NDArray

from smalti.models.quantizers import VQConfig
from smalti.models.vqgan import VQGANConfig
from smalti.trainer import weights
from smalti.trainer.config import to_mapping
from smalti.trainer.crops import AnyCropConfig, CodeCropConfig
from smalti.trainer.runs import PriorRun
from smalti.trainer.shard_writer import ShardWriter
from smalti.trainer.stream import DataConfig

CODES = 16  # of the tiny tokenizer's, factor 4


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of a .npy file."""
    packed = io.BytesIO()
    np.save(packed, array)
    return packed.getvalue()


def write_tokenizer(folder: Path, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """The export of a fresh VQGAN, and its card."""
    shape: dict[str, Any] = {
        "channels": 8, "multipliers": (1, 1, 1), "residual_blocks": 1, "attention_resolutions": (),
        "middle_attention": False, "z_channels": 4, "embed_dim": 4, "norm_groups": 2,
        "quantizer": VQConfig(codes=CODES),
    }  # fmt: skip
    config = VQGANConfig(**{**shape, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = config.build()
        torch.nn.init.normal_(model.quantize.embedding.weight)  # a fresh codebook is so narrow that all codes are one
    folder.mkdir(parents=True)
    card = {"task": "vqgan", "model": to_mapping(config), "factor": config.factor, "codes": config.codes}
    weights.write(folder, model.state_dict(), card)
    return weights.read_card(folder)


def write_code_shards(folder: Path, card: dict[str, Any], samples: Sequence[dict[str, bytes]], **said: Any) -> Path:
    """Shards of 8 samples ``p000``, ``p001``, ... whose members are given, and what else they say of themselves."""
    made_as = {"tokenizer": card["digest"], "factor": card["factor"], "codes": card["codes"]} | said
    with ShardWriter(folder, "c", 8, made_as) as writer:
        for number, members in enumerate(samples):
            writer.write(f"p{number:03d}", members)
    return folder


def prior_run(folder: Path, shards: str = "codes", crop: AnyCropConfig | None = None, **settings: Any) -> PriorRun:
    """A run in ``folder`` on shards and with a tokenizer that lie beside it; without a crop, on codes of its window."""
    crop = crop or CodeCropConfig(window=settings["model"].window)
    data = DataConfig(shards=(str(folder / shards),), crop=crop)
    places: dict[str, Any] = {"folder": str(folder / "run"), "tokenizer": str(folder / "tokenizer")}
    return PriorRun(**{**places, "data": data, "held_out": data, **settings})


def grids(count: int, size: tuple[int, int], codes: int = CODES, seed: int = 0) -> NDArray[np.uint16]:
    """(count, h, w) random codes."""
    return np.random.default_rng(seed).integers(0, codes, (count, *size)).astype(np.uint16)


def condition_members(number: int, size: tuple[int, int]) -> dict[str, bytes]:
    """What every kind of condition reads, made up for one sample of (h, w) codes."""
    draws = np.random.default_rng(1000 + number)
    low = draws.integers(0, 256, (4 * size[0], 4 * size[1], 3)).astype(np.uint8)
    corners = np.sort(draws.uniform(0, 4 * size[0], (30, 2, 2)), axis=1).reshape(30, 4)
    return {
        "cls": b"%d" % (number % 10),
        "map_codes.npy": npy(draws.integers(0, CODES, size).astype(np.uint8)),
        "depth_codes.npy": npy(draws.integers(0, CODES, size).astype(np.uint8)),
        "low.png": encoded(low, "PNG"),
        "text.npy": npy(draws.normal(size=(3, 8)).astype(np.float16)),
        "object_classes.npy": npy(draws.integers(-1, 10, 30)),
        "object_boxes.npy": npy(corners.astype(np.float32)),
    }
