"""One optimizer step of a prior on several ranks of this machine at ZeRO 1, 2 and 3: seconds, and memory of a rank.

Every stage runs in processes of its own, after one step that is not measured. The table has what a rank holds between
the steps, by kind, and the most that its process has taken from the machine.
"""

import argparse
import multiprocessing
import os
import resource
import socket
import time
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

import torch

from ...models.conditions import UnconditionalConfig
from ...models.priors.gpt import GPTConfig
from ...trainer.data.collate import Batch
from ...trainer.distributed import ranks, sharded_parameters
from ...trainer.prior.data import CodeSource
from ...trainer.prior.task import PriorTask
from ..command import count
from .prior_step import unread
from .timing import check_no_gpu

CODES = 1024


class Held(NamedTuple):
    """What one rank found."""

    seconds: float
    parameters: int  # bytes
    moments: int  # bytes
    peak: int  # bytes of the process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--ranks", type=count, default=2, help="processes, with a thread each (2)")
    parser.add_argument("--stages", type=int, nargs="+", choices=(1, 2, 3), default=[1, 2, 3], help="of ZeRO (1 2 3)")
    parser.add_argument("--layers", type=count, default=24, help="of the prior (24)")
    parser.add_argument("--heads", type=count, default=16, help="of attention (16)")
    parser.add_argument("--width", type=count, default=1024, help="channels of the prior (1024)")
    parser.add_argument("--side", type=count, default=16, help="codes of the window's sides (16)")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure; the figures are seconds of a step, and GiB that all ranks together have taken at most, by stage."""
    check_no_gpu("zero", "smalti plan CONFIG for bytes a GPU")
    print(
        f"{arguments.layers} x {arguments.heads} x {arguments.width}, {arguments.side**2} codes a sample, one sample a "
        f"rank, fp32, {arguments.ranks} ranks\n"
    )
    print("| ZeRO | seconds a step | parameters, GiB a rank | moments, GiB a rank | peak, GiB a rank | peak of all |")
    print("|---|---|---|---|---|---|")
    figures: dict[str, float] = {}
    for stage in arguments.stages:
        held = _measured(arguments, stage)
        seconds, total = max(each.seconds for each in held), _gib(sum(each.peak for each in held))
        first = held[0]
        print(
            f"| {stage} | {seconds:.1f} | {_gib(first.parameters):.2f} | {_gib(first.moments):.2f} | "
            f"{_gib(max(each.peak for each in held)):.2f} | {total:.2f} |",
            flush=True,
        )
        figures |= {f"zero_{stage}_seconds": round(seconds, 2), f"zero_{stage}_gib": round(total, 3)}
    return figures


def _measured(arguments: argparse.Namespace, stage: Literal[1, 2, 3]) -> list[Held]:
    """What every rank found at a stage."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = GPTConfig(
        layers=arguments.layers, heads=arguments.heads, width=arguments.width, window=(arguments.side, arguments.side)
    )
    answers = []
    for rank in range(arguments.ranks):
        mine, theirs = context.Pipe()
        context.Process(target=_rank, args=(theirs, rank, arguments.ranks, port, stage, model), daemon=True).start()
        theirs.close()  # so that a rank that dies is an EOFError here
        answers.append(mine)
    return [answer.recv() for answer in answers]


def _rank(answer: Connection, rank: int, world: int, port: int, stage: Literal[1, 2, 3], model: GPTConfig) -> None:
    """One rank: two steps, the second one measured."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    torch.set_num_threads(1)
    with ranks.process_group(1800.0):
        condition = UnconditionalConfig()
        torch.manual_seed(0)
        prior = model.build(CODES, condition)
        source = CodeSource({"codes": CODES, "factor": 16, "digest": ""}, {}, None, ())
        task = PriorTask(unread(model, condition, stage, world), prior, source, 1)
        draws = torch.Generator().manual_seed(rank)
        batch: Batch = {"codes": torch.randint(CODES, (1, *model.window), generator=draws), "key": [f"sample {rank}"]}
        task.step([batch], 0)
        began = time.perf_counter()
        task.step([batch], 1)
        seconds = time.perf_counter() - began
        states = task.engine.optimizer.optimizer.state.values()
        moments = [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
        parameters = [sharded_parameters.local_shard(parameter) for parameter in task.prior.parameters()]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer.send(Held(seconds, _bytes(parameters), _bytes(moments), peak))
        ranks.barrier()


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _gib(size: int) -> float:
    return size / 2**30
