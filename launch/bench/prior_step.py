"""One training step of a prior, ours against the published way, and from code shards against images encoded on line.

Both train the same transformer on the same sample, conditioned on a label map: P + N tokens of condition and codes. The
published way, written here in plain torch after Esser et al. 2021: two frozen encoders in every step, attention as a
matrix under a mask, all logits in fp32, AdamW. Ours is the step of ``PriorTask``. The three take turns in two processes
that wait for each other, so that whatever else the machine does falls on all of them.

Shapes: T = P + N - 1 positions, C channels, D channels of a head, K codes.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.conditions import CodeMapConfig, ConditionConfig
from ...models.pixel_range import from_levels
from ...models.priors.gpt import GPTConfig
from ...models.vqgan.autoencoder import VQGAN, VQGANConfig
from ...trainer.checkpoint.loading import LoadedTokenizer
from ...trainer.data.collate import Batch
from ...trainer.data.crops import CodeCropConfig
from ...trainer.data.stream import DataConfig
from ...trainer.distributed import ranks
from ...trainer.distributed.engine import EngineConfig, NetworkConfig
from ...trainer.distributed.optimizer import OptimizerConfig
from ...trainer.prior.config import PriorRun
from ...trainer.prior.data import CodeSource
from ...trainer.prior.online_encoder import OnlineEncoder
from ...trainer.prior.task import PriorTask
from ...trainer.training.loop import BatchConfig, LoopConfig
from ..command import count
from .peers.published import published_logits
from .timing import check_no_gpu

CODES, LABELS = 1024, 182
Step = Callable[[], object]


class Size(NamedTuple):
    """What is trained."""

    layers: int
    heads: int
    width: int
    side: int  # codes of the window's sides
    channels: int  # of the tokenizers
    threads: int


class Taken(NamedTuple):
    """What one step took."""

    seconds: float
    processor_seconds: float
    peak_bytes: int  # of the process so far


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--turns", type=count, default=7, help="steps of each kind that are measured (7)")
    parser.add_argument("--threads", type=count, default=2, help="of each process, one of which works at a time (2)")
    parser.add_argument("--layers", type=count, default=24, help="of the prior (24)")
    parser.add_argument("--heads", type=count, default=16, help="of attention (16)")
    parser.add_argument("--width", type=count, default=1024, help="channels of the prior (1024)")
    parser.add_argument("--side", type=count, default=16, help="codes of the window's sides (16)")
    parser.add_argument("--channels", type=count, default=128, help="of the tokenizers' first level (128)")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure; the figures say how many times faster our step is, and which share of the memory it needs."""
    check_no_gpu("prior_step", "bench gpu --parts prior")
    size = Size(*(getattr(arguments, name) for name in Size._fields))
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    for name, worker in (("published", _published), ("ours", _ours)):
        workers[name], theirs = context.Pipe()
        context.Process(target=worker, args=(theirs, size), daemon=True).start()
        theirs.close()  # so that a worker that dies is an EOFError here
    kinds = {"published": "published", "from shards": "ours", "on line": "ours"}

    def step(kind: str) -> Taken:
        workers[kinds[kind]].send(kind)
        taken: Taken = workers[kinds[kind]].recv()
        return taken

    # A second step is the first one that has the optimizer's state beside the activations. Ours is looked at before
    # the frozen encoders are loaded for the steps on line.
    peaks = {kind: max(step(kind).peak_bytes for _ in range(2)) for kind in ("published", "from shards")}
    step("on line")
    taken: dict[str, list[Taken]] = {kind: [] for kind in kinds}
    for _ in range(arguments.turns):
        for kind in kinds:
            taken[kind].append(step(kind))
    for connection in workers.values():
        connection.send(None)
    return _report(taken, peaks, size)


def _report(taken: dict[str, list[Taken]], peaks: dict[str, int], size: Size) -> dict[str, float]:
    print(
        f"{size.layers} x {size.heads} x {size.width}, {size.side**2} + {size.side**2} tokens, batch 1, fp32, "
        f"{size.threads} threads, {len(taken['published'])} turns\n"
    )
    print("| step | seconds | processor seconds | peak GiB |\n|---|---|---|---|")
    for kind, steps in taken.items():
        peak = f"{peaks[kind] / 2**30:.2f}" if kind in peaks else ""
        middle = (statistics.median(step.seconds for step in steps), _processor(steps))
        print(f"| {kind} | {middle[0]:.2f} | {middle[1]:.2f} | {peak} |")
    figures = {
        "speedup_from_shards": _ratio(taken["on line"], taken["from shards"]),
        "speedup_total": _ratio(taken["published"], taken["from shards"]),
        "memory_ratio": peaks["from shards"] / peaks["published"],
        "speedup_total_processor": _processor(taken["published"]) / _processor(taken["from shards"]),
        "speedup_from_shards_processor": _processor(taken["on line"]) / _processor(taken["from shards"]),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def _processor(steps: list[Taken]) -> float:
    return statistics.median(step.processor_seconds for step in steps)


def _ratio(slow: list[Taken], fast: list[Taken]) -> float:
    """The median over turns: the two of a turn ran one after the other."""
    return statistics.median(one.seconds / other.seconds for one, other in zip(slow, fast, strict=True))


def _serve(connection: Connection, size: Size, steps: dict[str, Callable[[], Step]]) -> None:
    """Take a step of the kind that is asked for, until nothing is; what a kind needs is made when it is first asked."""
    torch.set_num_threads(size.threads)
    ready: dict[str, Step] = {}
    while (kind := connection.recv()) is not None:
        if kind not in ready:
            ready[kind] = steps[kind]()
        began, processor = time.perf_counter(), time.process_time()
        ready[kind]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send(Taken(time.perf_counter() - began, time.process_time() - processor, peak))


def _config(size: Size) -> GPTConfig:
    return GPTConfig(layers=size.layers, heads=size.heads, width=size.width, window=(size.side, size.side))


def _sample(size: Size) -> dict[str, Tensor]:
    """An image with its map, and the codes of another."""
    draws = torch.Generator().manual_seed(0)
    pixels, codes = 16 * size.side, (1, size.side, size.side)
    return {
        "image": torch.randint(256, (1, 3, pixels, pixels), dtype=torch.uint8, generator=draws),
        "segmentation": torch.randint(LABELS, (1, pixels, pixels), dtype=torch.uint8, generator=draws),
        "codes": torch.randint(CODES, codes, generator=draws),
        "segmentation_codes": torch.randint(CODES, codes, generator=draws),
    }


def _tokenizers(size: Size) -> tuple[VQGAN, VQGAN]:
    """The two frozen tokenizers of factor 16, of images and of maps."""
    images, maps = VQGANConfig(channels=size.channels), VQGANConfig(channels=size.channels, num_labels=LABELS)
    return tuple(config.build().eval().requires_grad_(False) for config in (images, maps))  # type: ignore[return-value]


def _ours(connection: Connection, size: Size) -> None:
    """The step of our task, from codes and from images."""
    with ranks.process_group(3600.0):
        torch.manual_seed(0)
        sample, condition = _sample(size), CodeMapConfig(vocab_size=CODES)
        prior = _config(size).build(CODES, condition)
        metadata = {"codes": CODES, "factor": 16, "digest": ""}
        fields = prior.condition.fields
        task = PriorTask(unread(_config(size), condition, 0, 1), prior, CodeSource(metadata, {}, None, fields), 1)
        numbers = iter(range(1_000_000))

        def step(*names: str) -> None:
            batch: Batch = {name: sample[name] for name in names} | {"key": ["x"]}
            task.step([batch], next(numbers))

        def from_shards() -> Step:
            def one() -> None:
                task.source = task.source._replace(encoder=None)
                step("codes", "segmentation_codes")

            return one

        def on_line() -> Step:
            images, maps = (LoadedTokenizer(model, metadata) for model in _tokenizers(size))
            encoder = OnlineEncoder(images, {"segmentation": maps}, prior.condition)

            def one() -> None:
                task.source = task.source._replace(encoder=encoder)
                step("image", "segmentation")

            return one

        _serve(connection, size, {"from shards": from_shards, "on line": on_line})


def unread(model: GPTConfig, condition: ConditionConfig, zero: Literal[0, 1, 2, 3], samples: int) -> PriorRun:
    """A run in fp32, of one sample a rank, that touches no files, averages no weights and shows nothing."""
    data = DataConfig(shards=("not read",), crop=CodeCropConfig(window=model.window))
    optimizer = OptimizerConfig(learning_rate=4.5e-6, weight_decay=0.01)
    return PriorRun(
        run_dir="not written",
        tokenizer="not read",
        train_data=data,
        val_data=data,
        loop=LoopConfig(max_steps=1_000_000),
        batch=BatchConfig(global_batch_size=samples, micro_batch_size=1),
        model=model,
        condition=condition,
        training=NetworkConfig(optimizer=optimizer, engine=EngineConfig(zero_stage=zero)),
        ema_decay=0.0,
        previews=None,
    )


def _published(connection: Connection, size: Size) -> None:
    """The published loop: everything is encoded, attended to and scored in full, every step."""
    torch.manual_seed(0)
    sample = _sample(size)
    prior = _config(size).build(CODES, CodeMapConfig(vocab_size=CODES))
    images, maps = _tokenizers(size)
    matrices = {module.weight for module in prior.modules() if isinstance(module, nn.Linear)}
    others = [p for p in prior.parameters() if p not in matrices]
    groups = [{"params": list(matrices), "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=4.5e-6, betas=(0.9, 0.95))
    length = size.side**2
    hidden = torch.ones(2 * length, 2 * length).tril().view(1, 1, 2 * length, 2 * length) == 0

    def one() -> None:
        with torch.no_grad():
            codes = images.encode(from_levels(sample["image"])).indices.flatten(1)
            condition_codes = maps.encode(sample["segmentation"].long()).indices.flatten(1)
        logits = published_logits(prior, condition_codes, codes[:, :-1], hidden)[:, length - 1 :]
        loss = F.cross_entropy(logits.reshape(-1, CODES), codes.reshape(-1))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()

    _serve(connection, size, {"published": lambda: one})
