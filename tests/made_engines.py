"""A tiny network, its engine, and the same training in one process of plain torch."""

from typing import Any

import torch
from torch import Tensor, nn

from smalti.trainer import engine as engines
from smalti.trainer import ranks
from smalti.trainer.engine import EngineConfig
from smalti.trainer.optimizer import OptimizerConfig

SAMPLES, STEPS, CLIP = 8, 4, 0.5
OPTIMIZER = OptimizerConfig(learning_rate=0.01, weight_decay=0.1, warmup=2, schedule="cosine")
STAGES = (0, 1, 2, 3)


def network() -> nn.Module:
    """With sizes that no number of ranks divides, and a buffer."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 13), nn.LayerNorm(13), nn.GELU(), nn.Linear(13, 3))
    module.register_buffer("counter", torch.zeros(3, dtype=torch.int64))
    return module


def samples(step: int) -> tuple[Tensor, Tensor]:
    """Inputs (SAMPLES, 6) and targets (SAMPLES, 3) of a step, those of all ranks."""
    draws = torch.Generator().manual_seed(step)
    return torch.randn(SAMPLES, 6, generator=draws), torch.randn(SAMPLES, 3, generator=draws)


def built(zero: Any, precision: Any = "fp32", accumulation: int = 1) -> Any:
    """An engine around a fresh network."""
    config = EngineConfig(zero=zero, precision=precision, clip=CLIP)
    micro = SAMPLES // ranks.world() // accumulation
    return engines.build(network(), config, OPTIMIZER, micro_batch=micro, accumulation=accumulation)


def trained(engine: Any, accumulation: int = 1, steps: range = range(STEPS)) -> Any:
    """The engine after these steps."""
    for step in steps:
        engines.set_rate(engine, OPTIMIZER.rate(step, STEPS))
        mine = [part[ranks.rank() :: ranks.world()].chunk(accumulation) for part in samples(step)]
        for inputs, targets in zip(*mine, strict=True):
            outputs = engine(inputs.to(next(engine.module.parameters()).dtype))
            engine.backward((outputs.float() - targets).square().mean())
            engine.step()
        engine.module.counter += step
    return engine


def plain() -> dict[str, Tensor]:
    """The weights after all steps of plain torch's own AdamW and clipping."""
    module = network()
    weights, others = [module[0].weight, module[3].weight], [module[0].bias, *module[1].parameters(), module[3].bias]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * [0.5, 1.0, 1.0, 0.5][step]  # warmup over 2 steps, then half a cosine's way
        inputs, targets = samples(step)
        optimizer.zero_grad()
        (module(inputs) - targets).square().mean().backward()
        assert nn.utils.clip_grad_norm_(module.parameters(), CLIP) > CLIP  # else clipping is not tested
        optimizer.step()
        module.counter += step
    return {name: value.detach() for name, value in module.state_dict().items()}
