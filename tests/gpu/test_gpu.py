"""What only a GPU can show: precision, compilation and resuming there. ``pytest -m gpu tests/gpu``."""

import warnings
from pathlib import Path

import pytest
import torch

from smalti.models.conditions import ClassConfig, UnconditionalConfig
from smalti.models.layers.channels_last_norm import is_channels_last
from smalti.models.priors.decoders import step_graph
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.neighborhood import NeighborhoodConfig
from smalti.models.sampling import GridRequest, GuidanceConfig, SamplingConfig, sample
from smalti.models.vqgan.masking import RegionNorm
from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed import ranks
from smalti.trainer.distributed.engine import EngineConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine"),
]
WINDOW, CODES, BATCH = (8, 8), 64, 4


@pytest.fixture(scope="module", autouse=True)
def group():
    with ranks.process_group(300.0):
        yield


def network():
    torch.manual_seed(0)
    config = GPTConfig(layers=2, heads=2, width=128, window=WINDOW)
    return config.build(CODES, UnconditionalConfig()).to(ranks.device())


def built(precision="bf16", compiler=None):
    config = EngineConfig(zero_stage=1, precision=precision, grad_clip=1.0, compile_backend=compiler)
    return engines.build(network(), config, OptimizerConfig(learning_rate=1e-3), BATCH, 1)


def trained(engine, steps=range(3)) -> list[float]:
    """The losses of these steps."""
    losses = []
    for step in steps:
        draws = torch.Generator().manual_seed(step)
        codes = torch.randint(CODES, (BATCH, *WINDOW), generator=draws).to(ranks.device())
        loss = engine(codes, {}, targets=codes).loss.mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


def test_a_bf16_step_follows_an_fp32_step():
    assert trained(built("bf16")) == pytest.approx(trained(built("fp32")), rel=2e-2)


def test_a_compiled_step_follows_an_eager_one():
    assert trained(built(compiler="inductor")) == pytest.approx(trained(built()), rel=1e-2)


def test_training_is_saved_and_goes_on(tmp_path: Path):
    engine = built()
    trained(engine)
    place = tmp_path / "step" / "net"
    place.mkdir(parents=True)
    for file in engines.save(engine, place):
        torch.save(file.content, file.path)
    straight = trained(engine, range(3, 6))
    other = built()
    engines.load(other, place)
    assert trained(other, range(3, 6)) == pytest.approx(straight, rel=1e-2)


def test_a_norm_stays_channels_last_with_the_numbers_of_torch():
    x = torch.randn(2, 64, 16, 16, device=ranks.device(), dtype=torch.float64).to(memory_format=torch.channels_last)
    norm = RegionNorm(32, 64, eps=1e-6).to(ranks.device(), torch.float64)
    ours, theirs = norm(x.requires_grad_()), torch.nn.functional.group_norm(x, 32, norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(ours, theirs)
    assert is_channels_last(ours) and is_channels_last(torch.autograd.grad(ours.square().sum(), x)[0])


def test_the_same_seed_gives_the_same_codes():
    prior = network().bfloat16().eval()
    first, second = (sample(GridRequest(prior, {}, (12, 12), (0,), 1, SamplingConfig(lanes=4))) for _ in range(2))
    assert torch.equal(first.codes, second.codes)


@pytest.mark.parametrize("config", [GPTConfig, NeighborhoodConfig])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_captured_sampler_samples_the_codes_of_an_eager_one(config, scale, monkeypatch):
    torch.manual_seed(0)
    settings = {"layers": 2, "heads": 2, "width": 128, "window": WINDOW, "condition_dropout": 0.1}
    prior = config(**settings).build(CODES, ClassConfig(classes=3))
    prior = prior.to(ranks.device(), torch.bfloat16).eval()
    how = SamplingConfig(lanes=8, prefill=4, top_p=0.9, guidance=GuidanceConfig(scale))
    fields = {"cls": torch.tensor([1, 2])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what cannot be captured gives a warning
        captured = sample(GridRequest(prior, fields, (20, 24), (0, 1), 1, how))
    monkeypatch.setattr(step_graph, "EAGER_CALLS", 1 << 30)
    eager = sample(GridRequest(prior, fields, (20, 24), (0, 1), 1, how))
    assert torch.equal(captured.codes, eager.codes) and torch.equal(captured.scores, eager.scores)
