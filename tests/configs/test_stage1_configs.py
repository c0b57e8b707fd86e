"""Every packaged config of stage 1: its promises at its head, and that it trains when it is made small."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from fixtures.shards import encoded, photo

import smalti.configs
from smalti.trainer import config as configs
from smalti.trainer.images.geometry import Measured
from smalti.trainer.jobs.run import built, resolve_tokenizers
from smalti.trainer.shards.writer import ShardWriter
from smalti.trainer.vqgan.config import VQGANRun
from smalti.trainer.vqgan.task import VQGANTask

FOLDER = Path(smalti.configs.__file__).parent
TINY = ("vqgan_tiny", "vqgan_modern_tiny", "depth_tiny", "segmentation_tiny")
RECIPES = (
    "vqgan_imagenet_f16_1024", "vqgan_imagenet_f16_16384", "vqgan_f8_gumbel", "vqgan_faceshq",
    "vqgan_landscapes_megapixel", "segmentation_landscapes", "segmentation_sflckr", "segmentation_coco", "depth",
    "vqgan_modern_f16_4096", "vqgan_editor_landscapes",
    "vqvae_imagenet_f16_1024", "vqgan_faceshq_f8", "vqgan_faceshq_f4", "vqgan_faceshq_f2",
)  # fmt: skip
SIDE, CHANNELS = 32, 16
SHRUNK = {
    "train_data.crop.size": SIDE, "val_data.crop.size": SIDE,
    "batch": "{global_batch_size: 2, micro_batch_size: 1}", "loop.max_steps": 2,
    "model.channels": CHANNELS, "model.norm_groups": 4, "model.resolution": SIDE, "model.num_res_blocks": 1,
    "model.z_channels": 8, "model.embed_dim": 8, "model.quantizer.codebook_size": 16,
    "generator_training.optimizer.lr_scaling": "fixed", "generator_training.optimizer.learning_rate": 1e-3,
    "generator_training.optimizer.warmup_steps": 0, "generator_training.engine.compile_backend": "null",
}  # fmt: skip
STEPS = {"vqgan_tiny": 40, "vqgan_modern_tiny": 40, "depth_tiny": 30, "segmentation_tiny": 30}


@pytest.mark.parametrize("name", (*RECIPES, *TINY, "vqgan_editor_tiny"))
def test_a_config_opens_with_what_to_type_what_it_costs_and_what_to_expect(name: str) -> None:
    head = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any(f"smalti.launch.train {name}" in line for line in head)
    assert any(line.startswith("# Cost: ") for line in head) and any("Expected: " in line for line in head)


def shrunk(name: str) -> VQGANRun:
    """A recipe with all its kinds, a few numbers smaller."""
    whole: VQGANRun = configs.read(VQGANRun, name)
    attention = [max(1, SIDE * side // 256) for side in whole.model.attention_resolutions]
    changes = SHRUNK | {"model.attention_resolutions": attention}
    if whole.loss.perceptual is not None:
        changes["loss.perceptual.trunk"] = "random"
    if whole.loss.classifier_logits is not None:
        changes["loss.classifier_logits.classifier"] = "random"
    if whole.loss.adversarial is not None:
        changes |= {
            "loss.adversarial.disc_start": 0,
            "loss.adversarial.disc_only_steps": 0,
            "discriminator.channels": 32,
        }
        changes |= {
            "discriminator.stages" if whole.discriminator.kind == "blur_patchgan" else "discriminator.layers": 2
        }
        changes |= {f"discriminator_training.optimizer.{key}": value
                    for key, value in (("lr_scaling", "fixed"), ("learning_rate", 1e-3),
                                       ("warmup_steps", 0))}  # fmt: skip
        changes["discriminator_training.engine.compile_backend"] = "null"
    run: VQGANRun = configs.read(VQGANRun, name, [f"{key}={value}" for key, value in changes.items()])
    return run


def batch(rebuilds: str) -> dict[str, Any]:
    """One sample of what a recipe rebuilds."""
    image = torch.from_numpy(photo(SIDE, SIDE)).permute(2, 0, 1)[None]
    fields = {"image": image, "segmentation": image[:, 0] // 128, "depth": image[:, 0] / 255}
    return {rebuilds: fields[rebuilds], "segmentation": fields["segmentation"], "key": ["sample"]}


def train_recipes(names: list[str]) -> dict[str, Any]:
    """On a rank: two steps of every recipe; the last scalars, and how far the weights went."""
    results = {}
    for name in names:
        run = shrunk(name)
        torch.manual_seed(run.seed)
        task = VQGANTask(run, accumulation=2)
        before = [p.detach().float().clone() for p in task.model.parameters()]
        for step in range(run.loop.max_steps):
            scalars = task.step([batch(run.target)] * 2, step)
        way = sum(
            float((p.detach().float() - q).abs().sum()) for p, q in zip(task.model.parameters(), before, strict=True)
        )
        results[name] = {"scalars": {key: float(value) for key, value in scalars.items()}, "way": way}
    return results


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """All recipes, in two jobs at the same time."""
    jobs = [processes.start(train_recipes, 1, part) for part in (RECIPES[::2], RECIPES[1::2])]
    return {name: found for job in jobs for name, found in processes.finished(job)[0].items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_made_small_trains(name: str, trained: dict[str, Any]) -> None:
    whole, scalars = configs.read(VQGANRun, name), trained[name]["scalars"]
    assert trained[name]["way"] > 0 and all(map(math.isfinite, scalars.values())) and "skipped" not in scalars
    assert ("d_loss" in scalars) == (whole.loss.adversarial is not None)
    assert ("lpips_loss" in scalars) == (whole.loss.perceptual is not None)
    assert ("logit_loss" in scalars) == (whole.loss.classifier_logits is not None)


def write_samples(folder: Path) -> Path:
    """Shards of eight smooth images with maps of seven labels and depths."""
    with ShardWriter(folder, "x", 8, {"made by": "the tests"}) as writer:
        for number in range(8):
            pixels = photo(64, 80, number)
            members = {
                "png": encoded(pixels, "PNG"),
                "segmentation.png": encoded((pixels[..., 0] // 37).astype(np.uint8), "PNG"),
                "depth.png": encoded(pixels[..., 1], "PNG"),
            }
            writer.write(f"p{number}", members, Measured(64, 80))
    return folder


def train_tiny(shards: str, names: list[str]) -> dict[str, list[dict[str, float]]]:
    """On a rank: the validation figures of every tiny config before and after its training."""
    results = {}
    for name in names:
        steps = STEPS[name]
        changes = {"train_data.shards": f"[{shards}]", "val_data.shards": f"[{shards}]", "loop.max_steps": steps}
        if name != "segmentation_tiny":
            changes |= {"loss.adversarial.disc_start": steps // 2, "loss.adversarial.disc_only_steps": 5}
        run: VQGANRun = configs.read(VQGANRun, name, [f"{key}={value}" for key, value in changes.items()])
        torch.manual_seed(run.seed)
        task, training, val = built(run, resolve_tokenizers(run))
        figures = [dict(task.evaluate(val.eval_batches(8)))]
        batches = training.train_batches(0)
        for step in range(steps):
            task.step(next(batches), step)
        results[name] = [*figures, dict(task.evaluate(val.eval_batches(8)))]
    return results


def test_tiny_configs_learn(tmp_path: Path) -> None:
    shards = write_samples(tmp_path / "shards")
    jobs = [processes.start(train_tiny, 1, shards, part) for part in (TINY[::2], TINY[1::2])]
    found = {name: figures for job in jobs for name, figures in processes.finished(job)[0].items()}
    assert found.keys() == STEPS.keys()
    for name, (before, after) in found.items():
        if name == "segmentation_tiny":
            assert after["accuracy"] > before["accuracy"] + 0.2 and after["cross_entropy"] < before["cross_entropy"]
        else:
            assert after["psnr"] > before["psnr"] + 2, name
            assert after["codebook/usage"] > 0.3
