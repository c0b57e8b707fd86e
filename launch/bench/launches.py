"""Counts what a step asks of a device: kernels, waits of the host, collectives, and graph breaks under torch.compile.

Everything runs on the CPU, at full depth and small width: what is counted depends on neither width nor device. A kernel
is a dispatched operator that is not a view and does not only allocate; on a GPU that is about a launch each. A wait is
an operator, or a call from Python, whose result the host reads before it goes on. A training step is counted after one
that is not, which fills the optimizer's state; of a sampler every step of a whole grid, of which the worst one counts.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ...models.conditions import CodeMapConfig
from ...models.priors.gpt import GPTConfig
from ...models.priors.neighborhood import NeighborhoodConfig
from ...models.sampling import GridRequest, SamplingConfig, sample_steps
from ...trainer.config import from_mapping
from ...trainer.data.collate import Batch
from ...trainer.distributed import ranks
from ...trainer.prior.config import PriorRun
from ...trainer.prior.data import CodeSource
from ...trainer.prior.task import PriorTask
from ...trainer.vqgan.config import VQGANRun
from ...trainer.vqgan.task import VQGANTask
from ..command import count, natural

CODES, WINDOW = 64, 16
SAMPLED_WINDOW, SAMPLED = 4, 12  # codes a side of a sampler's window and grid: it has edges, corners and a middle
WAITING = {  # operators whose result, or its size, the host must know
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "histc", "equal", "_unique2", "unique_dim",
    "unique_consecutive", "repeat_interleave.Tensor", "allclose", "is_nonzero",
}  # fmt: skip
READING = {"tolist", "numpy", "cpu"}  # methods of a tensor that bring it to the host
ALLOCATING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
COUNTED_STEP = 1  # the one before it fills the optimizer's state


class Counts(NamedTuple):
    """What one step asked for."""

    launches: int
    waits: int
    collectives: int
    empty_collectives: int  # of no element


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators dispatched inside, backward passes too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launched: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()
        self.collectives: list[int] = []  # numbers in each message

    def __torch_dispatch__(self, operator: Any, types: Any, positional: Any = (), named: Any = None) -> Any:
        self._note(operator, positional)
        return operator(*positional, **(named or {}))

    def _note(self, operator: Any, positional: Any) -> None:
        name = operator._schema.name.split("::")[-1]
        if operator.namespace == "c10d":
            self.collectives.append(_numbers(positional))
        elif name in WAITING or f"{name}.{operator._overloadname}" in WAITING:
            self.waited[name] += 1
        elif name not in ALLOCATING and not _is_view(operator):
            self.launched[name] += 1


class Reads(TorchFunctionMode):
    """Counts the calls by which Python itself brings a tensor to the host, which dispatch nothing on a CPU."""

    def __init__(self, counter: Operators) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, function: Any, types: Any, positional: Any = (), named: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in READING:
            self._counter.waited[name] += 1
        return function(*positional, **(named or {}))


def _is_view(operator: Any) -> bool:
    returned = [result.alias_info for result in operator._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


def _numbers(tensors: Any) -> int:
    """How many numbers the first argument of a collective has, a tensor or lists of them."""
    while isinstance(tensors, list | tuple) and tensors:
        tensors = tensors[0]
    return tensors.numel() if isinstance(tensors, torch.Tensor) else 1


def counted(step: Callable[[], object]) -> tuple[Counts, Operators]:
    """What a call asks for."""
    counter = Operators()
    with counter, Reads(counter):
        step()
    sizes = counter.collectives
    counts = Counts(counter.launched.total(), counter.waited.total(), len(sizes), sizes.count(0))
    return counts, counter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--layers", type=count, default=24, help="of the priors (24)")
    parser.add_argument("--top", type=natural, default=0, help="also name the so many operators called most often (0)")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Count, print the table, and return the figures."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    print("| step | launches | waits | collectives | of no element |\n|---|---|---|---|---|")
    with ranks.process_group(300.0):
        vqgan, prior = _vqgan(), _prior(arguments.layers)
        for name, step in {"vqgan": vqgan[0], "prior": prior[0]}.items():
            for number in range(COUNTED_STEP):
                step(number)
            counts, counter = counted(lambda step=step: step(COUNTED_STEP))  # type: ignore[misc]
            print(f"| {name} | {' | '.join(str(count) for count in counts)} |", flush=True)
            _named(counter, arguments.top)
            figures |= {f"launches_{name}_step": counts.launches, f"waits_{name}_step": counts.waits}
        figures |= _samplers(arguments.layers, arguments.top)
        figures["graph_breaks"] = sum(_graph_breaks(*part) for part in [*vqgan[1], *prior[1]])
    print(f"\ngraph breaks: {figures['graph_breaks']}")
    return figures


def _named(counter: Operators, top: int) -> None:
    for kind, counts in (("launched", counter.launched), ("waited", counter.waited)):
        if top and counts:
            print(f"{kind}: {', '.join(f'{name} {count}' for name, count in counts.most_common(top))}")


Step = Callable[[int], object]
Parts = list[tuple[nn.Module, tuple[Any, ...]]]  # networks that may be compiled, each with its arguments


def small_vqgan() -> tuple[VQGANTask, Batch]:
    """The published networks, narrow, with LPIPS, discriminator, ZeRO 1 and EMA; and a micro-batch."""
    size = 64
    engine, optimizer = {"zero_stage": 1, "precision": "bf16"}, {"learning_rate": 1e-5, "betas": [0.5, 0.9]}
    data = {"shards": ["none"], "crop": {"size": size}}
    made: VQGANRun = from_mapping(VQGANRun, {
        "run_dir": "none", "train_data": data, "val_data": data, "loop": {"max_steps": 1 << 30},
        "batch": {"global_batch_size": 1, "micro_batch_size": 1},
        "model": {"channels": 32, "resolution": size, "z_channels": 64, "embed_dim": 64,
                  "attention_resolutions": [size // 16]},
        "loss": {"perceptual": {"trunk": "random"}},
        "generator_training": {"optimizer": optimizer, "engine": engine},
        "discriminator_training": {"optimizer": optimizer, "engine": engine},
    })  # fmt: skip
    torch.manual_seed(0)
    task = VQGANTask(made, accumulation=1)
    image = torch.randint(256, (1, 3, size, size), dtype=torch.uint8)
    return task, {"image": image, "key": ["none"]}


def _vqgan() -> tuple[Step, Parts]:
    """A step of stage 1."""
    task, batch = small_vqgan()
    values = (torch.as_tensor(batch["image"]) / 127.5 - 1).bfloat16()
    parts: Parts = [(task.model, (values,)), (task.engines["discriminator"].module, (values,))]
    return lambda number: task.step([batch], number), parts


def small_prior(layers: int) -> tuple[PriorTask, Batch]:
    """A prior conditioned on a segmentation map, narrow, with ZeRO 1 and EMA; and a micro-batch."""
    window = [WINDOW, WINDOW]
    data = {"shards": ["none"], "crop": {"kind": "codes", "window": window}}
    made: PriorRun = from_mapping(PriorRun, {
        "run_dir": "none", "tokenizer": "none", "train_data": data, "val_data": data, "loop": {"max_steps": 1 << 30},
        "batch": {"global_batch_size": 2, "micro_batch_size": 2}, "previews": None,
        "model": {"kind": "gpt", "layers": layers, "heads": 2, "width": 64, "window": window},
        "condition": {"kind": "code_map", "vocab_size": CODES},
        "training": {
            "optimizer": {"learning_rate": 1e-5}, "engine": {"zero_stage": 1, "precision": "bf16", "grad_clip": 1.0},
        },
    })  # fmt: skip
    torch.manual_seed(0)
    prior = made.model.build(CODES, made.condition)
    task = PriorTask(made, prior, CodeSource({"codes": CODES, "factor": 16, "digest": ""}, {}, None, ()), 1)
    grids = torch.randint(CODES, (2, WINDOW, WINDOW))
    return task, {"codes": grids, "segmentation_codes": grids, "key": ["first", "second"]}


def _prior(layers: int) -> tuple[Step, Parts]:
    """A step of stage 2."""
    task, batch = small_prior(layers)
    grids = batch["codes"]
    return lambda number: task.step([batch], number), [(task.prior, (grids, {"segmentation_codes": grids}, grids))]


def _graph_breaks(network: nn.Module, positional: tuple[Any, ...]) -> int:
    """Where torch.compile would leave the graph of a network."""
    explained = torch._dynamo.explain(network)(*positional)
    torch._dynamo.reset()
    return int(explained.graph_break_count)


def _samplers(layers: int, top: int) -> dict[str, float]:
    """Launches of a sampler's worst step: the most of one lane and of 64."""
    window = (SAMPLED_WINDOW, SAMPLED_WINDOW)
    shape: dict[str, Any] = {"layers": layers, "heads": 2, "width": 64, "window": window}
    figures: dict[str, float] = {}
    configs: dict[str, GPTConfig | NeighborhoodConfig]
    configs = {"wavefront": GPTConfig(**shape), "windowed": NeighborhoodConfig(**shape, rows_above=2, columns_beside=2)}
    for name, config in configs.items():
        found = []
        for lanes in (1, 64):
            counts, counter = max(counted_sampling(config, lanes), key=lambda pair: pair[0].launches)
            print(f"| {name}, {lanes} lanes | {' | '.join(str(count) for count in counts)} |", flush=True)
            _named(counter, top)
            found.append(counts.launches)
        figures[f"launches_{name}_step"] = max(found)
    return figures


def counted_sampling(config: GPTConfig | NeighborhoodConfig, lanes: int) -> list[tuple[Counts, Operators]]:
    """What every step of sampling a whole grid asks for, of as many images as the lanes hold."""
    torch.manual_seed(0)
    prior = config.build(CODES, CodeMapConfig(vocab_size=CODES)).eval()
    images = max(lanes // prior.rows_at_once(SAMPLED), 1)
    fields = {"segmentation_codes": torch.randint(CODES, (images, SAMPLED, SAMPLED))}
    sampling = SamplingConfig(lanes=lanes, prefill=lanes)
    steps = sample_steps(GridRequest(prior, fields, (SAMPLED, SAMPLED), range(images), 1, sampling))
    next(steps)  # plans all of them
    found = []
    while True:
        try:
            found.append(counted(lambda: next(steps)))
        except StopIteration:
            return found
