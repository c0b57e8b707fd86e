"""Stage 1 compiled block by block: the same numbers, no break of a graph, nothing compiled after the first step."""

from typing import Any, NamedTuple

import processes
import pytest
import torch
import torch._dynamo.utils
from fixtures.games import TOTAL, game, micro_batches
from torch import Tensor, nn

from smalti.trainer.distributed import sharded_parameters
from smalti.trainer.vqgan.task import VQGANTask

STEPS = 2
OPTIMIZER = {"learning_rate": 2e-3, "betas": [0.5, 0.9], "eps": 1e-3}
JUDGE = {"perceptual": {"trunk": "random"}, "adversarial": {}}


def training(backend: str | None) -> dict[str, Any]:
    return {"optimizer": OPTIMIZER, "engine": {"zero_stage": 1, "grad_clip": 1.0, "compile_backend": backend}}


class Game(NamedTuple):
    task: VQGANTask
    scalars: list[dict[str, Tensor]]
    graphs: int  # compiled in the first step
    breaks: int  # of them
    later: int  # graphs and breaks in what followed


def played(backend: str | None, norm: str, world: int, rank: int) -> Game:
    micro = TOTAL // world
    both = {name: training(backend) for name in ("generator_training", "discriminator_training")}
    run = game(micro=micro, norm=norm, extra=both | {"loss": JUDGE, "channels_last": True})
    torch.manual_seed(run.seed)
    task = VQGANTask(run, 1)
    scalars = []
    counters = torch._dynamo.utils.counters
    counters.clear()
    first: dict[str, int] = {}
    for step in range(STEPS):
        batches = micro_batches(step, micro, rank, world)
        scalars.append({name: value.detach() for name, value in task.step(batches, step).items()})
        if step == 0:
            first = {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}
            counters.clear()
        task.evaluate(iter([batches[0], {"image": batches[0]["image"][:1], "key": batches[0]["key"][:1]}]))
    later = counters["stats"]["unique_graphs"] + sum(counters["graph_break"].values())
    return Game(task, scalars, first["graphs"], first["breaks"], later)


def compared(norm: str, world: int) -> dict[str, Any]:
    """On a rank: the game with and without a compiler, and what the compiler counts."""
    games = [played(backend, norm, world, torch.distributed.get_rank()) for backend in (None, "aot_eager")]
    networks = {
        name: [sharded_parameters.full_state_dict(game.task.engines[name].module) for game in games]
        for name in ("generator", "discriminator")
    }
    counts = [{"graphs": game.graphs, "breaks": game.breaks, "later": game.later} for game in games]
    return networks | {"scalars": [game.scalars for game in games], "counts": counts}


@pytest.mark.parametrize(("norm", "world"), [("group", 1), ("batch", 2)])
def test_a_compiled_game_is_the_same_game(norm: str, world: int) -> None:
    for left in processes.run(compared, world, norm, world):
        for name in ("generator", "discriminator", "scalars"):
            eager, compiled = left[name]
            torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=2e-5, msg=lambda text, at=name: f"{at}: {text}")
        eager_counts, counts = left["counts"]
        assert eager_counts == {"graphs": 0, "breaks": 0, "later": 0}
        assert counts["graphs"] > 10
        assert (counts["breaks"], counts["later"]) == (0, 0)


def layouts(module: nn.Module, image: Tensor) -> dict[str, bool]:
    """By layer, whether its output lies channels-last, of those with more than one channel and row."""
    found = {}

    def look(name: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] > 1 and output.shape[2] > 1:
                found[name] = output.is_contiguous(memory_format=torch.channels_last)

        return note

    for name, part in module.named_modules():
        part.register_forward_hook(look(name))
    module(image)
    return found


def test_no_layer_of_stage_1_leaves_the_channels_last_layout() -> None:
    run = game(norm="batch", extra={"model": {
        "channels": 32, "channel_multipliers": [1, 2], "num_res_blocks": 1, "attention_resolutions": [8],
        "resolution": 16, "z_channels": 8, "embed_dim": 4, "quantizer": {"codebook_size": 16},
    }})  # fmt: skip
    image = torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    for network in (run.model.build(), run.discriminator.build(3)):
        found = layouts(network, image)
        assert len(found) > 3
        assert [name for name, kept in found.items() if not kept] == []
