"""Every packaged config of a prior: its promises at its head, and that it trains when it is made small."""

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import numpy as np
import processes
import pytest
import torch
from fixtures.priors import condition_members, grids, npy, write_code_shards, write_tokenizer
from fixtures.shards import encoded, photo

import smalti.configs
from smalti.models.conditions import ConditionConfig
from smalti.models.priors import PriorConfig
from smalti.trainer.config import read
from smalti.trainer.images.geometry import Measured
from smalti.trainer.jobs.run import built, resolve_tokenizers
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.shards.fields import PROVENANCE_KEYS
from smalti.trainer.shards.writer import ShardWriter
from smalti.trainer.vqgan.config import VQGANRun

FOLDER = Path(smalti.configs.__file__).parent
BASES = ("prior_published", "prior_modern")
NAMES = sorted(path.stem for path in FOLDER.glob("prior_*.yaml") if path.stem not in BASES)
STEPS = 3


@pytest.mark.parametrize("name", NAMES)
def test_a_config_opens_with_what_to_type_what_it_costs_and_what_to_expect(name):
    head = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any(line.endswith(f"smalti.launch.train {name}") for line in head)
    assert any(line.startswith("# Cost: ") for line in head) and any(line.startswith("# Expected: ") for line in head)


def tokenizers_made_in(name: str) -> dict[str, VQGANRun]:
    """The runs of stage 1 that a config's head gives commands for, by their folders."""
    head = re.sub(r"\\\n# *", "", (FOLDER / f"{name}.yaml").read_text())
    found = re.findall(r"^# +python -m smalti\.launch\.train (.+)$", head, re.MULTILINE)
    runs = [read(VQGANRun, words[0], words[2::2]) for words in map(shlex.split, found)]
    return {run.run_dir: run for run in runs}


def test_every_tokenizer_is_a_packaged_config_or_the_head_says_how_it_is_made():
    others = "prior|^editor_|^vqgan_modern$"
    stage1 = [path.stem for path in FOLDER.glob("*.yaml") if not re.search(others, path.stem)]
    packaged = {run.run_dir: run for run in (read(VQGANRun, name) for name in stage1)}
    for name in NAMES:
        run = read(PriorRun, name)
        text = (FOLDER / f"{name}.yaml").read_text()
        elsewhere = [other for other in NAMES if f"# {other} says how its tokenizer is made" in text]
        made = packaged | {key: value for each in (name, *elsewhere) for key, value in tokenizers_made_in(each).items()}
        if f"smalti palette data/photos/train {run.tokenizer} " in text:
            continue
        assert made[run.tokenizer].target == "image", name
        for field, folder in run.condition_tokenizers.items():
            assert made[folder].target == field, name
            assert made[folder].model.codebook_size == condition_codes(run.condition, f"{field}_codes"), name


def condition_codes(condition: Any, field: str) -> int:
    """How many codes of a field a condition knows, alone or as one of several."""
    parts = getattr(condition, "conditions", (condition,))
    return next(part.vocab_size for part in parts if getattr(part, "field", None) == field)


def test_every_kind_of_condition_and_prior_has_a_config():
    runs = [read(PriorRun, name) for name in NAMES]
    of_conditions = [kind for union in get_args(ConditionConfig) for kind in get_args(union) or (union,)]
    assert {type(run.condition) for run in runs} == set(of_conditions)
    editors = [read(PriorRun, path.stem) for path in FOLDER.glob("editor_*.yaml")]
    assert {type(run.model) for run in (*runs, *editors)} == set(get_args(PriorConfig))


def small(name: str, folder: Path) -> PriorRun:
    """A packaged config on made-up data, a few numbers smaller."""
    images = "crop.kind=patch" if name == "prior_online" else ""
    changes = {
        "run_dir": folder / "run", "tokenizer": folder / "tokenizer",
        "train_data.shards": [str(folder / ("images" if images else "codes"))],
        "val_data.shards": [str(folder / ("images" if images else "codes"))],
        "train_data.num_workers": 0, "batch": {"global_batch_size": 8, "micro_batch_size": 4}, "loop.max_steps": STEPS,
        "model.layers": 1, "model.heads": 2, "model.width": 16, "model.window": [4, 4],
        "training.engine.precision": "fp32", "training.engine.compile_backend": None,
        "training.optimizer.lr_scaling": "fixed", "training.optimizer.learning_rate": 3e-3,
        "training.optimizer.warmup_steps": 0,
    }  # fmt: skip
    changes |= {f"{data}.crop.{'size' if images else 'window'}": 16 if images else [4, 4]
                for data in ("train_data", "val_data")}  # fmt: skip
    if name == "prior_pixelsnail":
        del changes["model.layers"]
        changes |= {"model.blocks": 2, "model.residual_blocks": 1}
    changes |= {"condition.tokens": 3, "condition.channels": 8} if name in ("prior_text", "prior_caption") else {}
    run = read(PriorRun, name)
    changes |= {f"condition_tokenizers.{field}": folder / f"of {field}" for field in run.condition_tokenizers}
    return read(PriorRun, name, [f"{key}={as_yaml(value)}" for key, value in changes.items()])


def as_yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_yaml(inner) for inner in value) + "]"
    return "null" if value is None else f"{value!r}" if isinstance(value, float) else str(value)


def trained(folder: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Losses of a few steps, a validation figure, and whether what is saved is whole; runs on every rank."""
    left = {}
    for name in names:
        run = small(name, Path(folder))
        torch.manual_seed(run.seed)
        task, training, val = built(run, resolve_tokenizers(run))
        steps = training.train_batches(0)
        before = task.evaluate(val.eval_batches(4))["nll"]
        losses = [task.step(next(steps), step)["nll"].item() for step in range(STEPS)]
        after = task.evaluate(val.eval_batches(4))["nll"]
        left[name] = {"losses": losses, "before": before, "after": after, "weights": len(task.weights())}
    return left


def test_every_config_learns_when_it_is_made_small(tmp_path):
    metadata = write_tokenizer(tmp_path / "tokenizer")
    others = {
        "segmentation": write_tokenizer(tmp_path / "of segmentation", seed=1, num_labels=255),
        "depth": write_tokenizer(tmp_path / "of depth", seed=2, in_channels=1, out_channels=1),
    }
    made_as = {
        PROVENANCE_KEYS[field]: {"kind": "codes", "tokenizer": other["digest"]} for field, other in others.items()
    }
    samples = [
        condition_members(number, (5, 6)) | {"codes.npy": npy(grid)} for number, grid in enumerate(grids(8, (5, 6), 4))
    ]
    write_code_shards(tmp_path / "codes", metadata, samples, **made_as)
    with ShardWriter(tmp_path / "images", "p", 8, {}) as writer:
        for number in range(8):
            pixels = photo(24, 24, number)
            labels = encoded(np.ascontiguousarray(pixels[..., 0]), "PNG")
            writer.write(f"p{number}", {"png": encoded(pixels, "PNG"), "segmentation.png": labels}, Measured(24, 24))
    jobs = [processes.start(trained, 1, tmp_path, part) for part in (NAMES[::2], NAMES[1::2])]
    left = {name: found for job in jobs for name, found in processes.finished(job)[0].items()}
    assert sorted(left) == NAMES
    for name, run in left.items():
        assert np.isfinite(run["losses"]).all() and run["after"] < run["before"], name
        assert run["before"] == pytest.approx(np.log(16), rel=0.02), name
