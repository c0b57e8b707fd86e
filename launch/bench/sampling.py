"""Codes a second of every sampler beside the published way of sampling, on a stretch of a large grid.

The contestants take turns inside of one process, so that a busy machine slows all alike. A stretch is part of a row in
the middle of the grid, chosen so that the share of windows that stand still at the row's edges is that of a whole row:
on a 64 x 64 grid with windows of 16 x 16, 49 windows of a row's 64 are new. ``published`` is one full-window forward a
code, serial, without a cache: Esser et al. 2021.
"""

import argparse
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ...models.conditions import CodeMapConfig, Fields
from ...models.priors.base import Prior
from ...models.priors.decoding import strided_start
from ...models.priors.gpt import GPTConfig
from ...models.priors.neighborhood import NeighborhoodConfig
from ...models.sampling import UNFILLED, GridRequest, SamplingConfig, sample, sample_steps
from ..command import count, natural
from .parts import sampling_classes
from .timing import Contestant, wait

CODES = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--layers", type=count, default=24, help="of the prior (24)")
    parser.add_argument("--heads", type=count, default=16, help="of attention (16)")
    parser.add_argument("--width", type=count, default=1024, help="channels of the prior (1024)")
    parser.add_argument("--window", type=count, default=16, help="codes a side of the priors' window")
    parser.add_argument("--grid", type=count, default=64, help="codes a side of the image")
    parser.add_argument(
        "--rounds", type=count, default=4, help="parts of the stretch that the contestants take in turns"
    )
    parser.add_argument(
        "--processor-time", action="store_true", help="count seconds of the processor: for one thread on a busy machine"
    )
    parser.add_argument(
        "--classes", type=natural, default=100, metavar="N", help="also sample N classes in one process (100; 0: none)"
    )
    parser.add_argument("--whole", action="store_true", help="also sample one whole grid; for GPUs")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure; prints the table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = {"layers": arguments.layers, "heads": arguments.heads, "width": arguments.width}
    window = (arguments.window, arguments.window)
    gpt = _built(GPTConfig(**shape, window=window), device)
    windowed = _built(NeighborhoodConfig(**shape, window=window), device)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    if device.type == "cuda":  # loads its kernels at the first turn, which does not count
        for contestant in _contestants(gpt, windowed, arguments.grid, arguments.rounds, device):
            contestant.take_turn(device, clock)
    contestants = _contestants(gpt, windowed, arguments.grid, arguments.rounds, device)
    for _ in range(arguments.rounds):
        for contestant in contestants:
            contestant.take_turn(device, clock)
    rates = {contestant.name: contestant.rate for contestant in contestants}
    print(
        f"{arguments.layers} x {arguments.heads} x {arguments.width}, windows of {window[0]} x {window[1]} codes",
        end="",
    )
    print(f", a grid of {arguments.grid} x {arguments.grid}, {device}, {torch.get_num_threads()} threads", flush=True)
    for name, rate in rates.items():
        print(f"{name:12} {rate:8.2f} codes/s {rate / rates['published']:8.1f} x", flush=True)
    figures = {f"codes_per_s_{name}": rate for name, rate in rates.items()}
    figures |= {f"speedup_{name}": rate / rates["published"] for name, rate in rates.items() if name != "published"}
    if arguments.whole:
        fields = _fields(arguments.grid, device)
        for name, prior in {"wavefront": gpt, "windowed": windowed}.items():
            figures[f"seconds_whole_{name}"] = _whole(prior, fields, arguments.grid, device)
            print(f"a whole grid, {name}: {figures[f'seconds_whole_{name}']:.1f} s", flush=True)
    if arguments.classes:
        figures |= sampling_classes.measure(arguments.classes)
    return figures


def _built(config: GPTConfig | NeighborhoodConfig, device: torch.device) -> Prior:
    """A prior with random weights, conditioned on a map of as many codes as its window; bfloat16 on GPUs."""
    torch.manual_seed(0)
    with torch.device(device):
        prior = config.build(CODES, CodeMapConfig(vocab_size=CODES))
    return prior.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).eval()


def _contestants(gpt: Prior, windowed: Prior, grid: int, rounds: int, device: torch.device) -> list[Contestant]:
    """All of them; each has sampled what lies before its stretch, or finds it given."""
    fields, window = _fields(grid, device), gpt.window[1]
    gpu = device.type == "cuda"

    def row(name: str, stride: int) -> Contestant:
        """Four codes of one row a turn."""
        given = torch.zeros(1, grid, grid, dtype=torch.int64)
        given[0, grid // 2, stretch(grid, window, stride, 4 * rounds) :] = UNFILLED
        given[0, grid // 2 + 1 :] = UNFILLED
        config = SamplingConfig(mode="serial", stride=stride)
        return Contestant(name, _steps(gpt, fields, grid, config, given), 4)

    def front() -> Contestant:
        """One step a turn of all rows that run staggered, the first of them where its window stops at the edge."""
        given = torch.zeros(1, grid, grid, dtype=torch.int64)
        given[0, grid // 2 :] = UNFILLED
        for number in range(-(-grid // window)):
            given[0, grid // 2 + number, : max(grid - window // 2 - window * number, 0)] = 0
        config = SamplingConfig(lanes=16, prefill=16) if gpu else SamplingConfig(lanes=4)
        return Contestant("wavefront", _steps(gpt, fields, grid, config, given), 1)

    def rolling() -> Contestant:
        """Four steps a turn, once all rows that run staggered have begun."""
        work = _steps(windowed, fields, grid, SamplingConfig(lanes=8), None)
        for _ in range(grid - window // 2):
            next(work)
        return Contestant("windowed", work, 4)

    published = Contestant("published", _published(gpt, fields), 1)
    return [published, row("serial", 1), front(), row("stride4", 4), row("stride8", 8), rolling()]


def stretch(grid: int, window: int, stride: int, length: int) -> int:
    """Where a stretch of a row begins that has no smaller a share of new windows than the whole row, and little more.

    Its first window counts as new: nothing is cached when the stretch begins.
    """
    starts = [strided_start(column, grid, window, stride) for column in range(grid)]
    new = [column == 0 or starts[column] != starts[column - 1] for column in range(grid)]
    counts = {begin: 1 + sum(new[begin + 1 : begin + length]) for begin in range(grid - length + 1) if new[begin]}
    fair = sum(new) * length / grid
    return min(counts, key=lambda begin: (counts[begin] < fair, abs(counts[begin] - fair)))


def _steps(prior: Prior, fields: Fields, grid: int, config: SamplingConfig, given: Tensor | None) -> Iterator[int]:
    """Sample; the codes of each step."""
    before = 0
    for state in sample_steps(GridRequest(prior, fields, (grid, grid), (0,), 1, config, given)):
        yield state.filled - before
        before = state.filled


@torch.no_grad()
def _published(prior: Prior, fields: Fields) -> Iterator[int]:
    """One forward of a whole window a code."""
    rows, columns = prior.window
    window = {"segmentation_codes": fields["segmentation_codes"][:, :rows, :columns]}
    codes = window["segmentation_codes"].clone()
    while True:
        logits = prior(codes, window).logits[0, rows // 2, columns // 2]
        codes[0, rows // 2, columns // 2] = logits.float().softmax(dim=0).multinomial(1)[0]
        yield 1


def _fields(grid: int, device: torch.device) -> Fields:
    generator = torch.Generator().manual_seed(0)
    return {"segmentation_codes": torch.randint(CODES, (1, grid, grid), generator=generator).to(device)}


def _whole(prior: Prior, fields: Fields, grid: int, device: torch.device) -> float:
    """Seconds of one whole grid."""
    wait(device)
    began = time.perf_counter()
    sample(GridRequest(prior, fields, (grid, grid), (0,), 1, SamplingConfig(lanes=16, prefill=4)))
    wait(device)
    return time.perf_counter() - began
