"""Learning rates over a run, and which settings are refused."""

import pytest

from smalti.trainer.distributed.engine import EngineConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig


def rates(steps: int = 10, batch: int = 1, **settings) -> list[float]:
    config = OptimizerConfig(learning_rate=1e-3, **settings)
    return [1e3 * config.rate(step, steps, batch) for step in range(steps)]


def test_wsd_warms_up_stays_and_decays_in_a_line():
    assert rates(schedule="wsd", warmup_steps=2, decay_fraction=0.4, min_lr_ratio=0.5) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 1, 0.875, 0.75, 0.625]
    )


def test_the_cosine_ends_where_it_should():
    config = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=4, min_lr_ratio=0.1)
    assert config.rate(3, 100) == config.rate(4, 100) == pytest.approx(1e-3)
    assert config.rate(52, 100) == pytest.approx(0.55e-3)
    assert config.rate(100, 100) == pytest.approx(1e-4)


def test_the_linear_rule_counts_the_global_batch_and_the_fixed_one_does_not():
    published = OptimizerConfig(learning_rate=4.5e-6, lr_scaling="linear")
    assert published.rate(0, 10, batch=12) == pytest.approx(5.4e-5)
    assert OptimizerConfig(learning_rate=4.5e-6).rate(0, 10, batch=12) == 4.5e-6


def test_a_rate_that_cannot_train_is_refused():
    with pytest.raises(ValueError, match=r"learning rate of 0.00625 .* global batch of 1389.*lr_scaling: fixed"):
        OptimizerConfig(learning_rate=4.5e-6, lr_scaling="linear").peak(1389)
    with pytest.raises(ValueError, match="learning_rate must be in"):
        OptimizerConfig(learning_rate=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_fraction": 0.0}, "decay_fraction must be in"),
        ({"min_lr_ratio": 1.5}, "min_lr_ratio must be"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"betas": (0.9, 1.0)}, "betas"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(learning_rate=1e-3, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offload_parameters": True, "zero_stage": 2}, "needs the partitioned parameters of zero_stage 3"),
        ({"nvme_path": "/scratch", "offload_optimizer": True, "zero_stage": 2}, "nvme_path needs zero_stage 3"),
        ({"nvme_path": "/scratch", "zero_stage": 3}, "says where to offload, not what"),
        ({"precision": "fp16", "zero_stage": 0}, "fp16 needs zero_stage 1, 2 or 3"),
    ],
)
def test_engines_that_deepspeed_would_build_wrongly_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EngineConfig(**settings)
