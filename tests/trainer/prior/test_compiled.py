"""A prior compiled block by block: the same losses, no break of a graph, nothing compiled after the first step."""

from typing import Any

import processes
import pytest
import torch
import torch._dynamo.utils

from smalti.models.conditions import UnconditionalConfig
from smalti.models.priors import PriorConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.neighborhood import NeighborhoodConfig
from smalti.models.priors.pixelsnail import PixelSNAILConfig
from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed.compilation import uncompiled
from smalti.trainer.distributed.engine import EngineConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig

WINDOW, CODES, BATCH, STEPS = (4, 4), 16, 4, 3
SMALL: dict[str, Any] = {"layers": 3, "heads": 2, "width": 32, "window": WINDOW}
MODELS: dict[str, PriorConfig] = {
    "gpt2": GPTConfig(**SMALL, block="gpt2"),
    "llama": GPTConfig(**SMALL, block="llama"),
    "checkpointed": GPTConfig(**SMALL, block="llama", activation_checkpointing=True),
    "neighborhood": NeighborhoodConfig(**SMALL),
    "pixelsnail": PixelSNAILConfig(blocks=2, residual_blocks=1, heads=2, width=16, window=WINDOW),
}


def losses(model: PriorConfig, backend: str | None) -> dict[str, Any]:
    """Of some steps, each behind an evaluation of fewer samples; and what the compiler counts."""
    counters = torch._dynamo.utils.counters
    counters.clear()
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = model.build(CODES, UnconditionalConfig())
    config = EngineConfig(zero_stage=1, grad_clip=1.0, compile_backend=backend)
    engine = engines.build(network, config, OptimizerConfig(learning_rate=1e-3), BATCH, 1)
    found, graphs = [], []
    for step in range(STEPS):
        codes = torch.randint(CODES, (BATCH, *WINDOW), generator=torch.Generator().manual_seed(step))
        with torch.no_grad(), uncompiled(engine.module.eval()):
            found.append(engine.module(codes[:1], {}, targets=codes[:1]).loss.mean().item())
        engine.module.train()
        loss = engine(codes, {}, targets=codes).loss.mean()
        engine.backward(loss)
        engine.step()
        found.append(loss.item())
        graphs.append(counters["stats"]["unique_graphs"])
    return {"losses": found, "graphs": graphs, "breaks": sum(counters["graph_break"].values())}


def both(names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """On a rank: each model without and with a compiler."""
    return {name: [losses(MODELS[name], backend) for backend in (None, "aot_eager")] for name in names}


@pytest.fixture(scope="module")
def learnt() -> dict[str, list[dict[str, Any]]]:
    """All models, in two jobs: the first compilation of a process takes as long as the rest."""
    names = list(MODELS)
    jobs = [processes.start(both, 1, part) for part in (names[::2], names[1::2])]
    return {name: found for job in jobs for name, found in processes.finished(job)[0].items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_prior_learns_the_same(name: str, learnt: dict[str, list[dict[str, Any]]]) -> None:
    eager, compiled = learnt[name]
    assert compiled["losses"] == pytest.approx(eager["losses"], rel=1e-5)
    assert eager["graphs"] == [0] * STEPS
    assert compiled["graphs"] == [1] * STEPS  # the layers share one
    assert compiled["breaks"] == 0
