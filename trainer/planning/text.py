"""A plan as the lines that a user reads."""

import math
import shlex
from collections.abc import Iterator

from ..jobs.run import Run
from .costs import Costs
from .plan import GIB, Fit, Machines, Plan


def plan_lines(run: Run, costs: Costs, machines: Machines, planned: Plan) -> Iterator[str]:
    """The plan as text, line by line."""
    yield f"{run.task} on {machines.nodes} node(s) of {machines.gpus} GPUs with {machines.memory:g} GiB each\n"
    for network in costs.networks:
        yield f"  {network.section:24} {network.parameters / 1e6:10.1f} M parameters"
    yield f"  {'frozen networks':24} {costs.frozen / GIB:10.2f} GiB"
    yield (
        f"  {'one sample':24} {costs.sample.bytes / GIB:10.2f} GiB of activations, {costs.sample.flops / 1e9:.0f} GFLOP"
    )
    columns = ("weights", "gradients", "masters", "moments", "average", "buffers", "host")
    heads = "".join(f"{name:>11}" for name in columns)
    yield f"\n  {'GiB a rank:':50}{heads}{'largest micro':>15}{'s a step':>10}"
    for fit in planned.fits:
        held = "".join(f"{part / GIB:11.2f}" for part in fit.held)
        yield f"  {fit.name:50}{held}{_largest(fit):>15}{fit.pace.seconds:10.3f}"
    yield f"\n  {planned.steps} steps, {planned.samples:.3g} samples, {planned.tokens:.3g} codes"
    kind, peak = machines.peak(run)
    step = (planned.chosen or planned.fits[-1]).pace
    joined = "at the same time" if step.overlapped else "and then"
    yield f"  {planned.flops:.3g} FLOP: {_duration(planned.seconds)}"
    yield (
        f"  a step: {1e3 * step.computing:.1f} ms at {machines.reached(run):.0%} of {peak:g} TFLOP/s ({kind}), "
        f"{joined} {1e3 * step.sending:.1f} ms between ranks at {machines.bytes_per_second / 1e9:g} GB/s a GPU"
    )
    data = planned.reading
    yield (
        f"  {data.samples:.0f} samples/s a node, {data.milliseconds:g} ms of a core each: {math.ceil(data.cores)} "
        f"core(s) of a node read, {math.ceil(data.cores / machines.gpus)} worker(s) a rank"
    )
    save = planned.saving
    yield f"  {planned.checkpoint / GIB:.2f} GiB a checkpoint, {run.keep_last} are kept"
    yield (
        f"  a save takes {save.first / GIB:.1f} GiB of the host's memory on the first node, {save.others / GIB:.1f} on "
        f"others, and {save.stall:.1f} s of training\n"
    )
    for reason in planned.reasons:
        yield f"  - {reason}"
    settings = " ".join(f"--set {shlex.quote(setting)}" for setting in planned.settings(costs.networks))
    if settings:
        yield f"\n  recommended: {settings}"


def _largest(fit: Fit) -> str:
    return f"{fit.micro} (of {fit.largest})" if fit.micro != fit.largest else str(fit.micro)


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} days"
