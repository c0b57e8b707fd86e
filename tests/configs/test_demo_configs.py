"""The demo's configs go together."""

from typing import cast

from smalti.trainer import config as configs
from smalti.trainer.jobs.run import Run
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.vqgan.config import VQGANRun


def test_the_demo_trains_a_vqgan_under_zero_1_with_everything_that_the_published_one_has() -> None:
    run = cast(VQGANRun, configs.read(Run, "demo_vqgan"))

    assert run.generator_training.engine.zero_stage == 1
    assert run.loss.adversarial is not None and run.loss.adversarial.kind == "hinge" and run.loss.adversarial.adaptive
    assert run.loss.adversarial.disc_start < run.loop.max_steps
    assert run.loss.perceptual is not None and run.loss.perceptual.trunk == "random"


def test_both_priors_of_the_demo_read_the_codes_of_its_vqgan_under_zero_2() -> None:
    with_maps = cast(PriorRun, configs.read(Run, "demo_prior"))
    without = cast(PriorRun, configs.read(Run, "demo_prior_coordinates"))

    assert with_maps.condition.kind == "code_map" and without.condition.kind == "coordinate_features"
    for run in (with_maps, without):
        assert run.training.engine.zero_stage == 2
        assert run.tokenizer == configs.read(Run, "demo_vqgan").run_dir
