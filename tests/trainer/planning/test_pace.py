"""The time of a step and what it asks of nodes, against calculations by hand from published sizes alone.

Sizes: 24 layers of width 1024 are 302 M parameters (12 L d^2), 48 of 1536 1359 M; a head of 16 384 codes is 16.8 M or
25.2 M. A token costs 6 operations a parameter; attention 2 products forward and 5 backward of 2 T^2 d, half of them
where it is causal.
"""

from functools import cache

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from smalti.trainer import config
from smalti.trainer.data.config import DataConfig
from smalti.trainer.data.crops import CodeCropConfig, CropConfig, TamingCropConfig
from smalti.trainer.distributed.engine import EngineConfig
from smalti.trainer.jobs.run import Run
from smalti.trainer.planning.costs import Costs, measure
from smalti.trainer.planning.fake_tensor_meter import Meter, simulated
from smalti.trainer.planning.pace import pace, reading, saving
from smalti.trainer.planning.plan import Machines, plan
from smalti.trainer.planning.tokenizers import tokenizer_configs

BODY, HEAD, BIG = 302e6, 16.8e6, 1359e6 + 25.2e6
SHARE = 0.35  # of the peak, in the calculations by hand
AT_1024 = ("batch.global_batch_size=4096", "batch.micro_batch_size=4", "training.optimizer.lr_scaling=fixed")
MODERN = (
    "training.engine={zero_stage: 1, precision: bf16, compile_backend: inductor}", "ema_decay=0.9999",
    "early_stopping={patience: 10}",
)  # fmt: skip
FP32 = (
    *(f"{part}_training.engine.{setting}" for part in ("generator", "discriminator")
      for setting in ("precision=fp32", "compile_backend=null")),
    "loss.adversarial.discriminator_fakes=same_forward",
)  # fmt: skip


@cache
def costs_of(name: str, *settings: str) -> tuple[Run, Costs]:
    """A packaged config, and what a sample of it costs. How large its batches are does not matter to that."""
    run = config.read(Run, name, list(settings))
    return run, measure(run, tokenizer_configs(run, 16_384))


def hours(name: str, machines: Machines, settings: tuple[str, ...] = (), batch: tuple[str, ...] = ()) -> float:
    """The time of a whole run, as planned."""
    costs = costs_of(name, *settings)[1]
    return plan(config.read(Run, name, [*settings, *batch]), costs, machines).seconds / 3600


def attention(layers: int, width: int, tokens: int) -> float:
    return layers * 7 * 2 * tokens**2 * width / 2


def test_a_sample_of_the_published_prior():
    run, costs = costs_of("prior_imagenet_class", *MODERN)
    by_hand = 6 * 256 * (BODY + HEAD) + attention(24, 1024, 256)
    assert 490e9 < by_hand < 512e9 and costs.sample.flops == pytest.approx(by_hand, rel=0.05)
    planned = plan(run, costs, Machines(mfu=SHARE))
    # bf16 weights, masters and moments, the average, the best of early stopping, the weights for use.
    assert planned.checkpoint == pytest.approx(337e6 * (2 + 12 + 4 + 4 + 4), rel=0.05)
    computing = 300_000 * 128 * by_hand / (8 * 989e12 * SHARE) / 3600
    assert planned.seconds / 3600 == pytest.approx(computing + 300_000 * 2 * 0.674e9 * 7 / 8 / 300e9 / 3600, rel=0.2)


def test_attention_to_a_window_of_4096_codes_is_a_quarter_of_the_work():
    window = "[64, 64]"
    settings = [f"{name}.window={window}" for name in ("model", "train_data.crop", "val_data.crop")]
    by_hand = 6 * 4096 * (BODY + HEAD) + attention(24, 1024, 4096)
    assert by_hand == pytest.approx(10_720e9, rel=0.01)
    assert costs_of("prior_imagenet_class", *settings)[1].sample.flops == pytest.approx(by_hand, rel=0.05)


def test_fp32_is_not_planned_at_the_pace_of_bf16():
    by_hand = 900_000 * 12 * 1.337e12 / (495e12 * SHARE) / 3600  # convolutions in TF32
    assert by_hand == pytest.approx(23, rel=0.02)
    assert hours("vqgan_imagenet_f16_1024", Machines(gpus=1, mfu=SHARE), FP32) == pytest.approx(by_hand, rel=0.2)
    run = config.read(Run, "prior_imagenet_class", ["training.engine.precision=fp32"])
    assert Machines().peak(run) == ("fp32", 67.0) and Machines(teraflops=3).peak(run) == ("fp32", 3)


@pytest.mark.parametrize(
    ("name", "parameters", "ms", "by_hand"),
    [
        pytest.param("prior_imagenet_class_big", 1.41e9, 30 + 141, 14, marks=pytest.mark.slow),
        ("prior_imagenet_class", 337e6, 5.7 + 34, 3.3),
    ],
)
def test_a_thousand_gpus_spend_their_time_on_gradients_and_weights(name, parameters, ms, by_hand):
    assert ms == pytest.approx(ms - 2e3 * 2 * parameters / 40e9 + 2 * 2 * parameters / 40e6)  # reduced, then gathered
    assert ms / 1e3 * 300_000 / 3600 == pytest.approx(by_hand, rel=0.02)
    machines = Machines(nodes=128, mfu=SHARE)
    assert hours(name, machines, MODERN, AT_1024) == pytest.approx(by_hand, rel=0.2)
    run = config.read(Run, name, [*MODERN, *AT_1024])
    made = plan(run, costs_of(name, *MODERN)[1], machines)
    assert any("most of a step on sending" in reason for reason in made.reasons)
    twice = Machines(nodes=128, mfu=SHARE, bandwidth=80)
    assert plan(run, costs_of(name, *MODERN)[1], twice).seconds < 0.7 * made.seconds


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_counted_as_torch_counts_it_on_gpus_and_half_where_it_is_causal(causal):
    shape = (2, 4, 64, 16)
    with simulated():
        query, key, value = (torch.zeros(shape, requires_grad=True) for _ in range(3))
        meter = Meter()
        with meter():
            F.scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward()
    full = sdpa_flop_count(shape, shape, shape) + sdpa_backward_flop_count(shape, shape, shape, shape)
    assert meter.cost.flops == (full * 65 / 128 if causal else full)


def test_messages_of_each_stage():
    run, costs = costs_of("prior_imagenet_class", *MODERN)
    machines = Machines(nodes=2, gpus=4, bandwidth=10)
    once = 2 * costs.networks[0].parameters * 7 / 8 / 10e9  # of 128 samples each rank has 16: 4 micro-batches
    times = {1: 2, 2: 4 + 1, 3: 3 * 4}
    for stage, often in times.items():
        step = pace(run, costs.networks, costs.sample.flops, EngineConfig(zero_stage=stage), 4, machines)
        assert step.sending == pytest.approx(often * once)
        whole = (max if stage == 3 else sum)((step.computing, step.sending))
        assert step.seconds == pytest.approx(whole)


def test_data_are_asked_for_at_the_pace_of_the_steps():
    costs = {
        CropConfig(): 1.2,
        CropConfig(scale=(1, 4)): 3.8,
        TamingCropConfig(): 2.6,
        CodeCropConfig(): 0.02,
        None: 1.2,
    }
    for crop, cost in costs.items():
        asked = reading(DataConfig(shards=("x",), crop=crop), global_batch=2000, step_seconds=0.5, nodes=4)
        assert asked.samples == 1000 and asked.cores == pytest.approx(cost)
    spread = reading(DataConfig(shards=("x",), crops_per_image=4), global_batch=2000, step_seconds=0.5, nodes=4)
    assert spread.samples == 250


def test_a_save_takes_each_ranks_share_and_on_the_first_the_network_besides():
    networks = costs_of("prior_imagenet_class", *MODERN)[1].networks
    p = networks[0].parameters
    made = saving(networks, EngineConfig(zero_stage=1), Machines(nodes=4, gpus=8))
    assert made.others == pytest.approx(8 * 20 * p / 32)  # masters, moments, average, the best of early stopping
    assert made.first - made.others == pytest.approx(6 * p)  # weights of training and for use
    assert made.stall == pytest.approx((20 * p / 32 + 6 * p) / 4e9)
    sharded = saving(networks, EngineConfig(zero_stage=3), Machines(nodes=4, gpus=8))
    assert sharded.others == pytest.approx(8 * 22 * p / 32) and sharded.first - sharded.others == pytest.approx(4 * p)
