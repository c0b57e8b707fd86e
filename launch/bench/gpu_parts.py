"""The parts of the measurement on a GPU: each yields a row of the table as soon as it is measured.

MFU is against 989 TFLOP/s, the datasheet's dense bf16 of H100 and H200, by the operations that torch's counters see;
of sampling by twice the prior's parameters for each code, which is the least that a code needs.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...models.conditions import CodeMapConfig
from ...models.pixel_range import from_levels
from ...models.priors.base import Prior
from ...models.priors.gpt import GPTConfig
from ...models.priors.neighborhood import NeighborhoodConfig
from ...models.sampling import GridRequest, SamplingConfig, sample
from ...trainer.config import from_mapping
from ...trainer.data.collate import Batch
from ...trainer.data.stream import DataConfig, Stream
from ...trainer.distributed import ranks
from ...trainer.prior.config import PriorRun
from ...trainer.prior.data import CodeSource
from ...trainer.prior.task import PriorTask
from ...trainer.vqgan.frozen_losses import load_lpips
from ...trainer.vqgan.task import VQGANTask
from ..sample import lanes_and_prefill
from . import vqgan_step
from .peers import gpt2
from .peers.published import PublishedLoop
from .timing import Flops, wait

PEAK_FLOPS, CODES, WINDOW = 989e12, 1024, 16
HEAD = "| what | batch | a second | ms | MFU | peak GiB |\n|---|---|---|---|---|---|"
Step = Callable[[int], object]


class Sizes(NamedTuple):
    """What is measured."""

    side: int  # of images, in pixels
    channels: int
    batch: int  # of both sides
    layers: int
    heads: int
    width: int
    prior_batch: int
    grid: int  # codes a side of what is sampled
    many: int  # images sampled together
    turns: int
    steps: int  # of a turn
    compiler: str


FULL = Sizes(256, 128, 16, 24, 16, 1024, 32, 64, 32, 3, 5, "inductor")
TINY = Sizes(32, 32, 1, 2, 2, 32, 2, 18, 2, 1, 1, "aot_eager")


class Row(NamedTuple):
    """A line of the table, and figures that are known with it."""

    line: str
    figures: dict[str, float]


class Measured(NamedTuple):
    """What a step takes."""

    seconds: float
    flops: float
    peak: float  # GiB

    def row(self, name: str, batch: int, items: int, figures: dict[str, float]) -> Row:
        """The line; ``items`` are done in a step."""
        mfu = f"{self.flops / self.seconds / PEAK_FLOPS:.3f}" if self.flops else "-"
        line = f"| {name} | {batch} | {items / self.seconds:.1f} | {1000 * self.seconds:.1f} | {mfu} |"
        return Row(f"{line} {self.peak:.1f} |", figures)


def machine() -> str:
    """What is measured on, with what, and when, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = f"torch {torch.__version__}, deepspeed {version('deepspeed')}"
    return f"{name}, {versions}, {len(os.sched_getaffinity(0))} cores, {time.strftime('%Y-%m-%d')}"


def measured(steps: dict[str, Step], sizes: Sizes) -> dict[str, Measured]:
    """Steps that take turns, each after two that are left out. Only what is measured lies on the GPU meanwhile."""
    device, flops, peaks = ranks.device(), dict[str, float](), dict[str, float]()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for name, step in steps.items():
        with Flops() if "compiled" not in name else nullcontext() as counter:  # type: ignore[no-untyped-call]
            step(1)
        flops[name] = counter.total if counter is not None else 0.0
        step(2)
    for turn in range(sizes.turns):
        for name, step in steps.items():
            _reset_peak()
            wait(device)
            began = time.perf_counter()
            for number in range(sizes.steps):
                step(3 + turn * sizes.steps + number)
            wait(device)
            seconds[name].append((time.perf_counter() - began) / sizes.steps)
            peaks[name] = _peak()
    return {name: Measured(statistics.median(seconds[name]), flops[name], peaks[name]) for name in steps}


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> float:
    """GiB since the last reset."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def freed() -> None:
    """Take back the memory of engines that nothing holds any more but each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def vqgan(sizes: Sizes, _: Path) -> Iterator[Row]:
    """The published loop in autocast bf16 and our step, eager and compiled, at its batch and at one that fills."""
    with ranks.process_group(600.0):
        batch = sizes.batch
        found = measured({"published VQGAN": _published_vqgan(sizes), "VQGAN": _vqgan_step(sizes, batch)}, sizes)
        published, ours = found.values()
        rate = {"vqgan_images_per_second": batch / ours.seconds}
        yield published.row("published VQGAN", batch, batch, {})
        yield ours.row("VQGAN", batch, batch, rate | {"vqgan_vs_published": published.seconds / ours.seconds})
        freed()
        compiled = measured({"compiled": _vqgan_step(sizes, batch, sizes.compiler)}, sizes)["compiled"]
        compiled = compiled._replace(flops=ours.flops)
        best = min(ours.seconds, compiled.seconds)
        rate = {"vqgan_images_per_second": batch / best}
        yield compiled.row("VQGAN compiled", batch, batch, rate | {"vqgan_vs_published": published.seconds / best})
        kind = sizes.compiler if compiled.seconds < ours.seconds else None
        full, filled = _filled(sizes, _filling(batch, max(ours.peak, compiled.peak)), kind)
        filled = filled._replace(flops=ours.flops * full / batch)
        rate = {"vqgan_images_per_second": max(full / filled.seconds, batch / best)}
        yield filled.row(f"VQGAN {'compiled' if kind else 'eager'}, filling", full, full, rate)


def _filled(sizes: Sizes, batch: int, compiler: str | None) -> tuple[int, Measured]:
    """A step at a batch that fills the GPU, or at half of it where that is too much."""
    freed()
    try:
        return batch, measured({"compiled": _vqgan_step(sizes, batch, compiler)}, sizes)["compiled"]
    except torch.cuda.OutOfMemoryError:
        pass  # outside of the handler, which holds the step that failed
    torch._dynamo.reset()
    freed()
    return batch // 2, measured({"compiled": _vqgan_step(sizes, batch // 2, compiler)}, sizes)["compiled"]


def _filling(batch: int, peak: float) -> int:
    """The multiple of a batch that takes four fifths of the GPU's memory."""
    if not torch.cuda.is_available():
        return 2 * batch
    room = 0.8 * torch.cuda.get_device_properties(0).total_memory / 2**30
    return batch * max(int(room / peak), 1)


def _vqgan_config(sizes: Sizes, batch: int, compiler: str | None) -> Any:
    shape = argparse.Namespace(size=sizes.side, batch=batch, channels=sizes.channels)
    return vqgan_step.config(shape, precision="bf16", channels_last=True, compile=compiler)


def _vqgan_task(sizes: Sizes, batch: int, compiler: str | None) -> VQGANTask:
    torch.manual_seed(0)
    return VQGANTask(_vqgan_config(sizes, batch, compiler), accumulation=1)


def _vqgan_step(sizes: Sizes, batch: int, compiler: str | None = None) -> Step:
    task = _vqgan_task(sizes, batch, compiler)
    images: Batch = {"image": vqgan_step.image(batch, sizes.side), "key": ["none"] * batch}
    return lambda number: task.step([images], number)


def _published_vqgan(sizes: Sizes) -> Step:
    torch.manual_seed(0)
    made, device = _vqgan_config(sizes, sizes.batch, None), ranks.device()
    networks = made.model.build().to(device), made.discriminator.build(3).to(device)
    lpips, weight = load_lpips(made.loss.perceptual).to(device), made.loss.adversarial.disc_weight
    loop = PublishedLoop(*networks, lpips, weight, vqgan_step.RATE)
    real = from_levels(vqgan_step.image(sizes.batch, sizes.side).to(device))

    def step(_: int) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loop.step(real, lambda name: nullcontext())

    return step


def prior(sizes: Sizes, _: Path) -> Iterator[Row]:
    """Our step of a prior, eager and compiled, beside GPT-2 under torch.compile: transformers', or ``gpt2``'s own."""
    tokens = sizes.prior_batch * 2 * WINDOW**2
    with ranks.process_group(600.0):
        ours = measured({"prior": _prior_step(sizes, None)}, sizes)["prior"]
        yield ours.row("prior, tokens", sizes.prior_batch, tokens, {"prior_tokens_per_second": tokens / ours.seconds})
        freed()
        steps = {"prior compiled": _prior_step(sizes, sizes.compiler)}
        compiled = measured(steps, sizes)["prior compiled"]
        best = min(ours.seconds, compiled.seconds)
        rate = {"prior_tokens_per_second": tokens / best}
        yield compiled._replace(flops=ours.flops).row("prior compiled, tokens", sizes.prior_batch, tokens, rate)
        theirs = "transformers' GPT2" if gpt2.is_installed() else "GPT-2 in plain torch"
        steps[f"{theirs} compiled"] = _gpt2_step(sizes)
        both = measured(steps, sizes)  # in turns
        best = min(ours.seconds, both["prior compiled"].seconds)
        taken = both[f"{theirs} compiled"]
        figures = {"prior_vs_transformers": taken.seconds / best}
        yield taken._replace(flops=ours.flops).row(f"{theirs} compiled, tokens", sizes.prior_batch, tokens, figures)


def _prior_step(sizes: Sizes, compiler: str | None) -> Step:
    window, batch = [WINDOW, WINDOW], sizes.prior_batch
    data = {"shards": ["none"], "crop": {"kind": "codes", "window": window}}
    made: PriorRun = from_mapping(PriorRun, {
        "run_dir": "none", "tokenizer": "none", "train_data": data, "val_data": data, "loop": {"max_steps": 1 << 30},
        "batch": {"global_batch_size": batch, "micro_batch_size": batch}, "previews": None,
        "model": {"kind": "gpt", "layers": sizes.layers, "heads": sizes.heads, "width": sizes.width, "window": window},
        "condition": {"kind": "code_map", "vocab_size": CODES},
        "training": {"optimizer": {"learning_rate": 1e-5},
                     "engine": {"zero_stage": 1, "precision": "bf16", "grad_clip": 1.0, "compile_backend": compiler}},
    })  # fmt: skip
    torch.manual_seed(0)
    source = CodeSource({"codes": CODES, "factor": 16, "digest": ""}, {}, None, ())
    task = PriorTask(made, made.model.build(CODES, made.condition), source, 1)
    grids = torch.randint(CODES, (batch, WINDOW, WINDOW))
    codes: Batch = {"codes": grids, "segmentation_codes": grids, "key": [str(number) for number in range(batch)]}
    return lambda number: task.step([codes], number)


def _gpt2_step(sizes: Sizes) -> Step:
    length, device = 2 * WINDOW**2, ranks.device()
    network = gpt2.build(sizes.layers, sizes.heads, sizes.width, CODES, length).to(device)
    adam = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)
    compiled = torch.compile(network, backend=sizes.compiler)
    tokens = torch.randint(CODES, (sizes.prior_batch, length), device=device)

    def step(_: int) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(tokens, labels=tokens).loss
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    return step


def sampling(sizes: Sizes, _: Path) -> Iterator[Row]:
    """Whole grids, one image and many, each after a small one that is left out."""
    shape: dict[str, Any] = {"layers": sizes.layers, "heads": sizes.heads, "width": sizes.width}
    window = (WINDOW, WINDOW)
    configs: dict[str, NeighborhoodConfig | GPTConfig]
    configs = {"windowed": NeighborhoodConfig(**shape, window=window), "wavefront": GPTConfig(**shape, window=window)}
    for name, config in configs.items():
        torch.manual_seed(0)
        network = config.build(CODES, CodeMapConfig(vocab_size=CODES)).to(ranks.device(), torch.bfloat16).eval()
        _sampled(network, WINDOW + 1, 1)
        taken = _sampled(network, sizes.grid, 1)
        seconds = {f"seconds_1024_{name}": taken.seconds}
        yield taken.row(f"sampling, {name}, codes", 1, sizes.grid**2, seconds)
        if name == "windowed":
            taken = _sampled(network, sizes.grid, sizes.many)
            codes = sizes.many * sizes.grid**2
            rate = {"windowed_codes_per_second_32": codes / taken.seconds}
            yield taken.row(f"sampling, {name}, codes", sizes.many, codes, rate)


def _sampled(network: Prior, grid: int, images: int) -> Measured:
    """Sampled as the command does it."""
    fields: dict[str, Tensor] = {"segmentation_codes": torch.randint(CODES, (images, grid, grid)).to(ranks.device())}
    asked = argparse.Namespace(lanes=None, prefill=None, batch=images)
    lanes, prefill = lanes_and_prefill(asked, network.rows_at_once(grid), many=True)
    _reset_peak()
    wait(ranks.device())
    began = time.perf_counter()
    sample(GridRequest(network, fields, (grid, grid), range(images), 1, SamplingConfig(lanes=lanes, prefill=prefill)))
    wait(ranks.device())
    flops = 2.0 * sum(parameter.numel() for parameter in network.parameters()) * images * grid**2
    return Measured(time.perf_counter() - began, flops, _peak())


def loader(sizes: Sizes, out: Path) -> Iterator[Row]:
    """How many times faster images come from shards than the eager step takes them in."""
    shards, batch = out / "shards", sizes.batch
    if not shards.exists():
        _photos(out / "photos", 64 if sizes is TINY else 1024, 3 * sizes.side // 2)
        packing = [sys.executable, "-m", "smalti.launch.pack", str(out / "photos"), str(shards)]
        subprocess.run(packing, check=True, stdout=sys.stderr)
    with ranks.process_group(600.0):
        step = measured({"VQGAN": _vqgan_step(sizes, batch)}, sizes)["VQGAN"]
        cores = 0 if sizes is TINY else len(os.sched_getaffinity(0))
        data = {"shards": [str(shards)], "crop": {"size": sizes.side}, "num_workers": cores}
        stream = Stream(from_mapping(DataConfig, data), ("image",), global_batch=batch, micro_batch=batch, seed=0)
        task, batches, numbers = _vqgan_task(sizes, batch, None), stream.train_batches(0), iter(range(1, 1 << 30))
        for _ in range(2 + 2 * cores):  # what the workers have made ready while they started
            next(batches)
        count = 4 if sizes is TINY else 100
        seconds = _seconds(count, lambda: next(batches))
        ratio = {"loader_vs_step": step.seconds / seconds}
        yield Measured(seconds, 0.0, 0.0).row(f"loader, {cores} workers", batch, batch, ratio)
        _seconds(2, lambda: task.step(next(batches), next(numbers)))  # fill the optimizer's state
        seconds = _seconds(count // 4, lambda: task.step(next(batches), next(numbers)))
        yield step._replace(seconds=seconds).row("VQGAN from shards", batch, batch, {})


def _seconds(count: int, work: Callable[[], object]) -> float:
    """Of one of so many calls."""
    wait(ranks.device())
    began = time.perf_counter()
    for _ in range(count):
        work()
    wait(ranks.device())
    return (time.perf_counter() - began) / count


def _photos(folder: Path, count: int, side: int) -> None:
    """Smooth noise as JPEGs, which decode about as photos do."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draws.integers(256, size=(side // 8, side // 8, 3), dtype=np.uint8))
        coarse.resize((side, side)).save(folder / f"{number:05d}.jpg", quality=90)


PARTS: dict[str, Callable[[Sizes, Path], Iterator[Row]]] = {
    "vqgan": vqgan, "prior": prior, "sampling": sampling, "loader": loader,
}  # fmt: skip
