"""Every config says at its head whether it is faithful or modern; the faithful ones have the published numbers."""

import re
from pathlib import Path
from typing import Any

import pytest

import smalti.configs
from smalti.trainer.checkpoint.best import KeepBestConfig
from smalti.trainer.config import read
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.vqgan.config import VQGANRun

FOLDER = Path(smalti.configs.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
BASES = ("vqgan_modern", "prior_published", "prior_modern")  # which name no data, so that no run can be made of them
# The numbers of the released YAML files: global batch, codes, first step of the discriminator, its weight and layers.
RELEASED_STAGE_1 = {
    "vqgan_imagenet_f16_1024": (12, 1024, 250_001, 0.8, 3),
    "vqgan_imagenet_f16_16384": (12, 16_384, 0, 0.75, 2),
    "vqgan_faceshq": (3, 1024, 30_001, 0.8, 3),
    "vqgan_f8_gumbel": (12, 8192, 0, 0.75, 2),
    "depth": (3, 1024, 50_001, 0.75, 3),
    "segmentation_coco": (12, 1024, None, None, None),
    "segmentation_sflckr": (12, 1024, None, None, None),
}
# Those of stage 2, or of the paper's table 8 where none was released: layers, width, dropout; batch where it is known.
RELEASED_STAGE_2 = {
    "prior_depth": (24, 1024, 0.0, 2),
    "prior_faceshq_coordinates": (24, 1024, 0.0, 2),
    "prior_objects": (40, 1408, 0.1, 6),
    "prior_objects_open_images": (36, 1536, 0.1, 6),
    "prior_faces": (24, 1664, 0.0, None),
    "prior_imagenet_class": (24, 1024, 0.0, None),
    "prior_imagenet_class_big": (48, 1536, 0.0, 128),
    "prior_cocostuff_segmentation": (32, 1280, 0.0, None),
    "prior_ade20k_segmentation": (28, 1024, 0.1, None),
    "prior_keypoints_fashion": (18, 768, 0.0, None),
    "prior_unconditional": (24, 1024, 0.0, None),
}


def head(name: str) -> list[str]:
    return [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]


def choice(name: str) -> str:
    found = [match[1] for line in head(name) if (match := re.match(r"# (Faithful(?: to|:)|Modern[:,]) ", line))]
    return found[0].split()[0].rstrip(":,")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_faithful_or_modern_and_for_what_number(name: str) -> None:
    assert choice(name) in ("Faithful", "Modern")
    text = " ".join(line.removeprefix("# ") for line in head(name))
    if name not in ("prior_published",):
        assert re.search(r"number|FID|nats|settings|recipe for it|crops, tokenizers and schedule", text), text


def test_the_faithful_configs_are_those_with_published_numbers_to_match() -> None:
    faithful = {name for name in NAMES if choice(name) == "Faithful"} - set(BASES)
    assert faithful == RELEASED_STAGE_1.keys() | RELEASED_STAGE_2.keys()


@pytest.mark.parametrize("name", RELEASED_STAGE_1)
def test_a_faithful_config_of_stage_1_has_every_released_number(name: str) -> None:
    run: VQGANRun = read(VQGANRun, name)
    batch, codes, start, weight, layers = RELEASED_STAGE_1[name]
    assert (run.batch.global_batch_size, run.model.codebook_size) == (batch, codes)
    quantizer: Any = run.model.quantizer
    if quantizer.kind == "gumbel":
        temperatures = quantizer.temperature_start, quantizer.temperature_end, quantizer.temperature_steps
        assert (quantizer.kl_weight, *temperatures) == (1e-8, 0.9, 1e-6, 1_000_001)
        assert (run.model.channel_multipliers, run.model.attention_resolutions) == ((1, 1, 2, 4), (32,))
    else:
        assert (quantizer.kind, quantizer.legacy_beta, quantizer.codebook_init) == ("vq", True, "uniform")
        assert (quantizer.commitment_weight, quantizer.codebook_weight) == (0.25, 1.0)
        assert quantizer.replace_dead_after is None
        assert (run.model.channel_multipliers, run.model.attention_resolutions) == ((1, 1, 2, 2, 4), (16,))
    network = run.model
    sizes = network.channels, network.num_res_blocks, network.z_channels, network.embed_dim, network.dropout
    assert sizes == (128, 2, 256, 256, 0.0) and network.norm_groups == 32 and network.mid_attention
    for data, random in ((run.train_data, True), (run.val_data, False)):
        crop: Any = data.crop
        flip = 0.5 if name == "depth" and random else 0.0
        assert (crop.kind, crop.size, crop.random, crop.flip) == ("taming", 256, random, flip)
    assert run.train_data.crop.resize == (296 if name == "segmentation_coco" else 0)
    for training in filter(None, (run.generator_training, run.discriminator_training)):
        optimizer, engine = training.optimizer, training.engine
        assert (optimizer.learning_rate, optimizer.lr_scaling, optimizer.betas) == (4.5e-6, "linear", (0.5, 0.9))
        assert (optimizer.weight_decay, optimizer.schedule, optimizer.warmup_steps) == (0.0, "constant", 0)
        assert (engine.precision, engine.compile_backend, engine.grad_clip) == ("fp32", None, None)
    assert run.ema_decay == 0.0 and run.keep_best == KeepBestConfig("nll_loss", "min", 3)
    game: Any = run.loss.adversarial
    if start is None:
        assert game is None and run.loss.perceptual is None and run.loss.segmentation_loss == "bce"
        return
    assert (game.kind, game.disc_start, game.disc_weight) == ("hinge", start, weight)
    assert (game.adaptive, game.eps, game.max_adaptive_weight) == (True, 1e-4, 1e4)
    assert (game.disc_only_steps, game.ramp_steps, game.discriminator_fakes) == (0, 0, "updated_generator")
    judge: Any = run.discriminator
    assert (judge.kind, judge.channels, judge.layers, judge.norm) == ("patchgan", 64, layers, "batch")
    assert (run.loss.pixel_loss, run.loss.pixel_weight, run.loss.perceptual.weight) == ("l1", 1.0, 1.0)


@pytest.mark.parametrize("name", RELEASED_STAGE_2)
def test_a_faithful_config_of_stage_2_has_every_published_number(name: str) -> None:
    run: PriorRun = read(PriorRun, name)
    layers, width, dropout, batch = RELEASED_STAGE_2[name]
    model: Any = run.model
    assert (model.kind, model.block, model.layers, model.heads, model.width) == ("gpt", "gpt2", layers, 16, width)
    assert (model.window, model.order.kind, model.token_keep_prob) == ((16, 16), "raster", 1.0)
    assert (model.embedding_dropout, model.attention_dropout, model.residual_dropout) == (dropout,) * 3
    assert (model.condition_dropout, model.label_smoothing, model.annealing) == (0.0, 0.0, None)
    assert batch is None or run.batch.global_batch_size == batch
    optimizer, engine = run.training.optimizer, run.training.engine
    assert (optimizer.learning_rate, optimizer.lr_scaling, optimizer.betas) == (4.5e-6, "linear", (0.9, 0.95))
    assert (optimizer.weight_decay, optimizer.schedule, optimizer.warmup_steps) == (0.01, "constant", 0)
    assert (engine.precision, engine.compile_backend, engine.grad_clip) == ("fp32", None, None)
    assert (run.ema_decay, run.early_stopping, run.keep_best) == (0.0, None, KeepBestConfig("nll", "min", 3))
    if name.startswith("prior_objects"):
        condition: Any = run.condition
        assert (condition.representation, condition.objects, condition.grid) == ("box", 30, 90)
        assert condition.only_in_crop and condition.shuffle
        assert condition.classes == (171 * 2 if name == "prior_objects" else 350 * 16)


def test_one_line_turns_a_faithful_recipe_into_a_modern_one(tmp_path: Path) -> None:
    (tmp_path / "vqgan.yaml").write_text("extends: [vqgan_faceshq.yaml, vqgan_modern.yaml]\n")
    run: VQGANRun = read(VQGANRun, tmp_path / "vqgan.yaml")
    assert (run.model.quantizer.codebook_init, run.model.quantizer.legacy_beta) == ("k_means", False)
    assert (run.generator_training.engine.precision, run.ema_decay) == ("bf16", 0.999)
    assert run.loss.adversarial.disc_start == 30_001
    (tmp_path / "prior.yaml").write_text("extends: [prior_depth.yaml, prior_modern.yaml]\n")
    prior: PriorRun = read(PriorRun, tmp_path / "prior.yaml")
    assert (prior.training.engine.precision, prior.ema_decay) == ("bf16", 0.9999)
    assert prior.early_stopping is not None and prior.batch.global_batch_size == 2
