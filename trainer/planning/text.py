"""A plan as the lines that a user reads."""

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
    yield f"\n  {'GiB a rank:':50}" + "".join(f"{name:>11}" for name in columns) + f"{'largest micro':>15}"
    for fit in planned.fits:
        yield f"  {fit.name:50}" + "".join(f"{part / GIB:11.2f}" for part in fit.held) + f"{_largest(fit):>15}"
    yield f"\n  {planned.steps} steps, {planned.samples:.3g} samples, {planned.tokens:.3g} codes"
    pace = f"{machines.mfu:.0%} of {machines.teraflops:g} TFLOP/s"
    yield f"  {planned.flops:.3g} FLOP: {_duration(planned.seconds)} at {pace}"
    yield f"  {planned.checkpoint / GIB:.2f} GiB a checkpoint, {run.keep_last} are kept\n"
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
