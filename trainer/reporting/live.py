"""How a run stands, from its folder alone: a few lines for a terminal."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import bounded_json
from ..config import read
from ..exit_code import ExitCode
from ..jobs import exit_codes, failures
from ..jobs.environment import Environment, environments
from ..jobs.run import Run
from ..jobs.run_dir import RESOLVED, resolved_config
from ..training.metrics import FILE, RANKS, clock, history
from .runs import alerts, has

BAR = 30  # characters
SILENT = 10.0  # times the time between two lines, after which a run that writes none is called silent
SHOWN = 6  # losses of a line
PACE = ("images_per_second", "tokens_per_second", "seconds_per_step", "data_wait", "gpu_memory", "mfu")


def status(folder: Path, now: float | None = None) -> list[str]:
    """The lines about one run.

    Args:
        now: seconds since 1970; None: the time of day.

    Raises:
        ValueError: the folder is no run's.
    """
    if not resolved_config(folder).is_file():
        raise ValueError(f"{folder} is not a run's folder ({RESOLVED} is missing); name one that smalti train fills")
    run: Run = read(Run, resolved_config(folder), saved=True)
    path = folder / FILE
    lines = history(folder) if path.is_file() else []
    trained = [line for line in lines if has(line, "train/")]
    starts = environments(folder)
    step, steps = int(lines[-1]["step"]) if lines else 0, run.loop.max_steps
    pace = trained[-1].get("train/seconds_per_step") if trained else None
    age = (time.time() if now is None else now) - path.stat().st_mtime if lines else None
    state = _state(folder, run, pace, age)
    return [
        f"{folder}  {_bar(step / steps)} step {step}/{steps}{_left(pace, steps - step)}  {state}",
        *_hardware(starts),
        *_figures(trained),
        *_validation(lines),
        *_alerts(lines, trained),
        *_ranks(folder, starts),
    ]


def _bar(share: float) -> str:
    filled = round(BAR * min(1.0, share))
    return f"[{'#' * filled}{'.' * (BAR - filled)}] {min(1.0, share):.1%}"


def _left(pace: float | None, steps: int) -> str:
    return "" if pace is None or steps <= 0 else f"  left {clock(pace * steps)}"


def _state(folder: Path, run: Run, pace: float | None, age: float | None) -> str:
    """Whether the run goes on, or how it ended."""
    code = exit_codes.last(folder)
    if code is not None:
        named = ExitCode(code).name if code in list(ExitCode) else "unknown"
        cause = failures.reported_failures(folder)
        return f"ended with {code} ({named}){f': {cause}' if cause else ''}"
    if age is None:
        return "has written nothing yet"
    usual = None if pace is None else pace * run.loop.log_every
    silent = usual is not None and age > SILENT * max(usual, 1.0)
    return f"{'SILENT, ' if silent else ''}last line {clock(age)} ago"


def _hardware(starts: Sequence[Environment]) -> list[str]:
    if not starts:
        return []
    last = starts[-1]
    hosts = len(set(map(str, last.hosts)))
    return [f"  {last.ranks} rank(s) on {hosts} host(s), {last.device}; start {len(starts)}, {last.began}"]


def _figures(trained: Sequence[Mapping[str, float]]) -> list[str]:
    if not trained:
        return []
    last = {name.removeprefix("train/"): value for name, value in trained[-1].items() if name.startswith("train/")}
    losses = [name for name in last if name.endswith(("loss", "nll"))][:SHOWN]
    chosen = [[name for name in PACE if name in last], losses]
    return ["  train  " + "  ".join(f"{name} {last[name]:.4g}" for name in names) for names in chosen if names]


def _validation(lines: Sequence[Mapping[str, float]]) -> list[str]:
    found = [line for line in lines if has(line, "val/")]
    if not found:
        return []
    values = [
        f"{name.removeprefix('val/')} {value:.4g}" for name, value in found[-1].items() if name.startswith("val/")
    ]
    return [f"  val at step {found[-1]['step']:.0f}  " + "  ".join(values[:SHOWN])]


def _alerts(lines: Sequence[Mapping[str, float]], trained: Sequence[Mapping[str, float]]) -> list[str]:
    last = trained[-1]["step"] if trained else None
    return [f"  ALERT {alert.name} since step {alert.first}" for alert in alerts(lines) if alert.last == last]


def _ranks(folder: Path, starts: Sequence[Environment]) -> list[str]:
    """Who waits longest for data, and who is fullest, by rank and host."""
    try:
        seen = bounded_json.read(folder / RANKS)
        hosts = starts[-1].hosts if starts else []
        columns = [("data_wait", "waits longest for data", "{:.0%}"), ("gpu_memory", "fullest GPU", "{:.1f} GiB")]
        said = []
        for name, words, form in columns:
            values = [float(value) for value in seen[name]]
            most = max(range(len(values)), key=values.__getitem__)
            where = f" on {hosts[most]}" if most < len(hosts) else ""
            if values[most] > 0:
                middle = form.format(statistics.median(values))
                said.append(f"{words}: rank {most}{where}, {form.format(values[most])} (median {middle})")
        return [f"  {'; '.join(said)}"] if said else []
    except (OSError, ValueError, KeyError, TypeError):
        return []  # of an older run, or just being replaced
