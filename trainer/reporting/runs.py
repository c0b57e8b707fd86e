"""Runs as their folders tell them, and what they came to in a few lines for the console."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import read
from ..files import read_regular
from ..jobs.environment import Environment, environments
from ..jobs.run import Run
from ..jobs.run_dir import RESOLVED, resolved_config
from ..training import arrays
from ..training.arrays import StepArray
from ..training.metrics import FILE, history
from ..vqgan.config import VQGANRun

_LARGEST = 1 << 20  # bytes of a file of seconds


class ReportedRun(NamedTuple):
    """One run, as its folder tells it."""

    folder: Path
    run: Run
    lines: list[dict[str, float]]  # of its metrics
    starts: list[Environment]  # what it ran on, a start each
    arrays: list[StepArray]  # of its evaluations


def reported_run(folder: Path) -> ReportedRun:
    """Read a run's folder.

    Raises:
        ValueError: it is not a run, or has not been evaluated.
    """
    if not resolved_config(folder).is_file() or not (folder / FILE).is_file():
        raise ValueError(f"{folder} is not a run's folder ({RESOLVED} and {FILE} are missing); train it first")
    lines = history(folder)
    if not curve(lines, "val/psnr") and not curve(lines, "val/nll"):
        raise ValueError(f"{folder} has not been evaluated yet; train it on")
    return ReportedRun(
        folder, read(Run, resolved_config(folder), saved=True), lines, environments(folder), arrays.read(folder)
    )


def curve(lines: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """The (step, value) pairs of one metric."""
    return [(line["step"], line[name]) for line in lines if name in line]


def has(line: Mapping[str, float], group: str) -> bool:
    """Whether a line holds metrics whose names begin so, such as ``train/``."""
    return any(name.startswith(group) for name in line)


def seconds(path: Path) -> dict[str, float]:
    """Seconds by part from lines ``NAME SECONDS``; a part that was gone on with has several, which add up.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: a line is another one.
    """
    spent: dict[str, float] = {}
    for line in read_regular(path, _LARGEST).decode("utf-8", "replace").splitlines():
        match = re.fullmatch(r"(.*\S)\s+(\d+(?:\.\d*)?)\s*", line)
        if match is None:
            raise ValueError(f"{path} has the line {line[:80]!r}, and its lines are NAME SECONDS")
        spent[match[1]] = spent.get(match[1], 0.0) + float(match[2])
    return spent


def summary(parts: Sequence[ReportedRun], spent: Mapping[str, float], images: Sequence[Path]) -> list[str]:
    """What was trained, what it came to, how long it took, and where to look."""
    lines = [line for each in parts for line in _results(each)]
    if spent:
        lines.append("seconds: " + ", ".join(f"{name} {time:.0f}" for name, time in spent.items()))
        lines.append(f"in all: {sum(spent.values()) / 60:.1f} minutes")
    return lines + [f"image: {path}" for path in images]


def _results(each: ReportedRun) -> list[str]:
    run, lines = each.run, each.lines
    step = int(lines[-1]["step"])
    if isinstance(run, VQGANRun):
        psnr, use = curve(lines, "val/psnr"), curve(lines, "val/codebook/usage")
        found = [
            f"VQGAN in {each.folder}: {step} steps of {run.batch.global_batch_size} crops, factor {run.model.factor}, "
            f"{run.model.codebook_size} codes",
            f"  validation PSNR {psnr[0][1]:.2f} dB before, {psnr[-1][1]:.2f} dB after; "
            f"{use[-1][1]:.0%} of the codes in use",
        ]
        if run.loss.perceptual is not None and run.loss.perceptual.trunk == "random":
            found.append("  LPIPS had a random trunk: fine for trying things out, not for training in earnest")
        return found
    nats, share = curve(lines, "val/nll"), curve(lines, "val/normalized_nll")
    return [
        f"prior in {each.folder}: {step} steps of {run.batch.global_batch_size} grids, "
        f"conditioned on {run.condition.kind}",
        f"  validation NLL {nats[0][1]:.3f} nats per code before, {nats[-1][1]:.3f} after; "
        f"ln K is {nats[-1][1] / share[-1][1]:.3f}, so it is {1 - share[-1][1]:.0%} below",
    ]


class Alert(NamedTuple):
    """What a run's monitors have raised, for as long as it was measured."""

    name: str
    first: int  # step
    last: int


def alerts(lines: Sequence[Mapping[str, float]]) -> list[Alert]:
    """The alerts of a run in the order in which they began; one that came again is there again."""
    found: list[Alert] = []
    before: set[str] = set()
    for line in lines:
        if not has(line, "train/"):
            continue  # of an evaluation, which watches nothing
        now = {name.removeprefix("train/alert_") for name in line if name.startswith("train/alert_")}
        for name in sorted(now - before):
            found.append(Alert(name, int(line["step"]), int(line["step"])))
        running = {alert.name: number for number, alert in enumerate(found)}
        for name in now & before:
            found[running[name]] = found[running[name]]._replace(last=int(line["step"]))
        before = now
    return found
