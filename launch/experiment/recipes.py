"""The configs of an experiment's runs, as mappings that ``smalti train`` reads."""

import math
from pathlib import Path
from typing import Any

from .sizes import Size

Config = dict[str, Any]
TOKENIZER_SEED = 0


def tokenizer(size: Size, shards: Path, multipliers: tuple[int, ...], adversarial: bool) -> Config:
    """A VQGAN, under its own objective or that of the VQ-VAE: squared error alone.

    Args:
        multipliers: of its widths, in place of the size's.
    """
    steps = size.tokenizer_steps
    optimizer = {"learning_rate": size.tokenizer_rate, "betas": [0.5, 0.9]}
    engine = {"zero_stage": 1, "precision": size.precision}
    training = {"optimizer": {**optimizer, "warmup_steps": min(20, steps // 4)}, "engine": engine}
    losses: Config = {"pixel_loss": "l2", "perceptual": None, "adversarial": None}
    if adversarial:
        ramp = max(1, steps // 16)
        losses = {
            "pixel_loss": "l1",
            "perceptual": {"weight": 0.1 if size.trunk == "random" else 1.0, "trunk": size.trunk},
            "adversarial": {
                "disc_weight": 0.8, "disc_start": size.disc_start, "disc_only_steps": 0, "ramp_steps": ramp,
                "max_adaptive_weight": 10.0,
            },
        }  # fmt: skip
    return {
        "task": "vqgan",
        "train_data": _images(size, shards / "train", flip=0.5),
        "val_data": _images(size, shards / "val", flip=0.0),
        "batch": {"global_batch_size": size.tokenizer_batch, "micro_batch_size": _micro(size, size.tokenizer_batch)},
        "loop": _loop(steps),
        "model": {
            "channels": size.channels, "norm_groups": size.norm_groups, "channel_multipliers": list(multipliers),
            "num_res_blocks": size.res_blocks, "attention_resolutions": [], "mid_attention": size.norm_groups > 0,
            "resolution": size.side, "z_channels": size.latent, "embed_dim": size.latent,
            "quantizer": {"kind": "ema", "codebook_size": size.codes, "decay": 0.9, "replace_dead_after": 20},
        },
        "loss": losses,
        "discriminator": {"kind": "patchgan", "channels": size.discriminator, "layers": 2, "norm": "group"},
        "generator_training": training,
        "discriminator_training": training if adversarial else None,
        "ema_decay": 0.0,
        "seed": TOKENIZER_SEED,
    }  # fmt: skip


def prior(size: Size, codes: Path, made_by: Path, grid: int, model: Config, seed: int) -> Config:
    """A prior over grids of ``grid`` x ``grid`` codes.

    Args:
        made_by: the tokenizer of the codes.
        model: with its kind; without its window.
    """
    steps = size.prior_steps
    crop = {"kind": "codes", "window": [grid, grid]}
    data = {name: {"shards": [str(codes / name)], "crop": crop} for name in ("train", "val")}
    return {
        "task": "prior",
        "tokenizer": str(made_by),
        "train_data": {**data["train"], "num_workers": size.workers},
        "val_data": data["val"],
        "batch": {"global_batch_size": size.prior_batch, "micro_batch_size": _micro(size, size.prior_batch)},
        "loop": _loop(steps),
        "model": {**model, "window": [grid, grid]},
        "training": {
            "optimizer": {
                "learning_rate": size.prior_rate, "betas": [0.9, 0.95], "weight_decay": 0.01,
                "warmup_steps": min(20, steps // 4),
            },
            "engine": {"zero_stage": 1, "precision": size.precision, "grad_clip": 1.0},
        },
        "previews": None,
        "ema_decay": 0.0,
        "seed": seed,
    }  # fmt: skip


def transformer(size: Size) -> Config:
    """The paper's GPT."""
    return {"kind": "gpt", "layers": size.layers, "heads": size.heads, "width": size.width}


def pixelsnail(size: Size) -> Config:
    """Its baseline, of about as many parameters."""
    width, blocks, residual_blocks, heads = size.snail
    return {
        "kind": "pixelsnail", "width": width, "blocks": blocks, "residual_blocks": residual_blocks, "heads": heads,
    }  # fmt: skip


def _images(size: Size, shards: Path, flip: float) -> Config:
    """The largest square of each image, small."""
    crop = {"size": size.side, "scale": [math.inf, math.inf], "flip": flip}
    return {"shards": [str(shards)], "crop": crop, "num_workers": size.workers}


def _loop(steps: int) -> dict[str, int]:
    """Eight evaluations, and as many lines and saves."""
    part = max(1, steps // 8)
    return {"max_steps": steps, "log_every": part, "preview_every": steps, "eval_every": part, "save_every": part}


def _micro(size: Size, batch: int) -> int:
    return math.gcd(size.micro, batch)
