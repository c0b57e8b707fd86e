"""Tiny runs of both stages: configs and data that a rank trains within a second."""

import json
from pathlib import Path
from typing import Any

from made_pictures import write_pictures
from made_priors import grids, npy, write_code_shards, write_tokenizer

from smalti.trainer.metrics import history

STEPS = 6
TIMES = {  # of a line of metrics: they differ from run to run
    "seconds", "train/seconds_per_step", "checkpoint/stalled_seconds", "checkpoint/bytes_per_second",
}  # fmt: skip


def write_vqgan(place: Path, zero: int = 1, precision: str = "fp32", **settings: Any) -> Path:
    """The config of an adversarial VQGAN on 24 pictures beside it, and its name: RUN.yaml trains in RUN."""
    if not (place / "pictures").exists():
        write_pictures(place / "pictures", 24)
    data = {"shards": [str(place / "pictures")], "crop": {"size": 16}}
    engine = {"zero": zero, "precision": precision, "clip": 1.0}
    optimizer = {"learning_rate": 1e-3, "warmup": 2, "schedule": "cosine"}
    return _write(place, settings, {
        "task": "vqgan",
        "data": data,
        "held_out": data,
        "loop": {"steps": STEPS, "log_every": 1, "preview_every": 4, "evaluate_every": 3, "save_every": 1},
        "batch": {"total": 8, "micro": 2},
        "model": {
            "channels": 4, "norm_groups": 2, "multipliers": [1, 2], "residual_blocks": 1, "attention_resolutions": [],
            "middle_attention": False, "resolution": 16, "z_channels": 4, "embed_dim": 4,
            "quantizer": {"kind": "vq", "codes": 16, "revive_after": 2},
        },
        "discriminator": {"kind": "patchgan", "channels": 16, "layers": 1, "norm": "group"},
        "loss": {"perceptual": None, "adversarial": {"start": 1, "warmup": 1, "ramp": 1}},
        "generator_training": {"optimizer": optimizer, "engine": engine},
        "discriminator_training": {"optimizer": optimizer, "engine": engine},
        "average": 0.9,
        "timeout_s": 250.0,
    })  # fmt: skip


def write_prior(place: Path, zero: int = 1, precision: str = "fp32", **settings: Any) -> Path:
    """The config of a prior on 24 grids of codes beside it, and its name: RUN.yaml trains in RUN."""
    if not (place / "codes").exists():
        card = write_tokenizer(place / "tokenizer")
        samples = [{"codes.npy": npy(grid)} for grid in grids(24, (6, 6))]
        write_code_shards(place / "codes", card, samples)
    data = {"shards": [str(place / "codes")], "crop": {"kind": "codes", "window": [4, 4]}}
    return _write(place, settings, {
        "task": "prior",
        "tokenizer": str(place / "tokenizer"),
        "data": data,
        "held_out": data,
        "loop": {"steps": STEPS, "log_every": 1, "preview_every": 4, "evaluate_every": 3, "save_every": 1},
        "batch": {"total": 8, "micro": 2},
        "model": {
            "kind": "gpt", "layers": 2, "heads": 2, "width": 16, "window": [4, 4], "embedding_dropout": 0.1,
            "attention_dropout": 0.1, "residual_dropout": 0.1, "keep": 0.9,
        },
        "training": {
            "optimizer": {"learning_rate": 1e-3, "warmup": 2},
            "engine": {"zero": zero, "precision": precision, "clip": 1.0},
        },
        "average": 0.9,
        "timeout_s": 250.0,
    })  # fmt: skip


def _write(place: Path, settings: dict[str, Any], config: dict[str, Any]) -> Path:
    name = settings.pop("name", "run")
    for path, value in settings.items():
        section = config
        *outer, last = path.split("__")
        for key in outer:
            section = section[key]
        section[last] = value
    file = place / f"{name}.yaml"
    file.write_text(json.dumps({**config, "folder": str(place / name)}))  # JSON is YAML
    return file


def lines(run: Path) -> list[dict[str, float]]:
    """The metrics of a run without its times."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in history(run)]
