"""Combinations of sampling settings, each evaluated once, as a table and a plot.

OUT/results.json  {"settings": [{"guidance": 2.0, ..., "protocol": {...}, "figures": {"fid": 31.2, ...}}, ...]}
OUT/table.md      the settings, the best first
OUT/plot.png      the metric against the setting that has most values, a line for each combination of the others;
                  missing where no value of it is finite
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ...trainer import bounded_json
from ...trainer.distributed import ranks
from ...trainer.evaluation.evaluate import EvaluationRequest, evaluate
from ...trainer.files import write_whole
from ...trainer.reporting import line_plot

LARGER_IS_BETTER = frozenset({"inception_score", "precision", "recall", "mean_iou", "pixel_accuracy", "drawn_kept"})
RESULTS, TABLE, PLOT = "results.json", "table.md", "plot.png"

Axes = Mapping[str, Sequence[float | int | None]]


def search(base: EvaluationRequest, axes: Axes, metric: str, out: Path, say: Callable[[str], None]) -> list[str]:
    """Evaluate all combinations that are not in the folder yet; the lines of the table. Every rank must call this.

    Args:
        base: all that is asked of each evaluation besides.
        axes: values of its settings.
        metric: the figure that decides.
        say: takes a line about the progress.

    Raises:
        AgreedError: something is wrong with what is asked, or an evaluation has no such figure; on every rank.
    """
    done = ranks.broadcast_object(ranks.agreed(lambda: _read(out, base) if ranks.rank() == 0 else []))
    wanted = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    for number, settings in enumerate(wanted, 1):
        if any(_same(each, settings) for each in done):
            continue
        if ranks.rank() == 0:
            say(f"{number} of {len(wanted)}: {_words(settings)}")
        request = ranks.agreed(partial(replace, base, **settings))
        found = evaluate(request, say)
        if metric not in found.figures:
            raise ranks.AgreedError(
                f"the evaluation has no figure {metric!r}; it has {', '.join(found.figures)} (sampled images are "
                "judged on shards of images, with --features)"
            )
        done.append({**settings, "protocol": found.protocol, "figures": found.figures})
        if ranks.rank() == 0:
            content = {"request": _kept(base), "settings": done}
            write_whole(out / RESULTS, (json.dumps(content, indent=1) + "\n").encode())
    lines = table([each for each in done if any(_same(each, settings) for settings in wanted)], axes, metric)
    if ranks.rank() == 0:
        write_whole(out / TABLE, ("\n".join(lines) + "\n").encode())
        if any(math.isfinite(each["figures"][metric]) for each in done):
            write_whole(out / PLOT, line_plot.png([panel(done, axes, metric)]))
    return lines


def table(done: Sequence[Mapping[str, Any]], axes: Axes, metric: str) -> list[str]:
    """The settings as a Markdown table, the best first."""
    sign = -1 if metric in LARGER_IS_BETTER else 1
    ranked = sorted(done, key=lambda each: sign * each["figures"][metric])
    shown = [metric, *(name for name in ranked[0]["figures"] if name != metric)]
    return [
        "| " + " | ".join([*axes, *shown]) + " |",
        "|" + "---|" * (len(axes) + len(shown)),
        *(
            "| "
            + " | ".join([*(_shown(each[name]) for name in axes), *(f"{each['figures'][name]:.5g}" for name in shown)])
            + " |"
            for each in ranked
        ),
    ]


def panel(done: Sequence[Mapping[str, Any]], axes: Axes, metric: str) -> line_plot.Panel:
    """The metric against the setting that has most values; where it is not limited, that stands at 0."""
    across = max(axes, key=lambda name: len(axes[name]))
    others = [name for name in axes if name != across and len(axes[name]) > 1]
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in done:
        name = ", ".join(f"{other} {_shown(each[other])}" for other in others) or metric
        lines.setdefault(name, []).append((float(each[across] or 0), each["figures"][metric]))
    return line_plot.Panel("sampling settings", across, metric, {name: sorted(line) for name, line in lines.items()})


def _read(out: Path, base: EvaluationRequest) -> list[dict[str, Any]]:
    """What the folder has of the same request.

    Raises:
        ValueError: it has results of another one.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not (out / RESULTS).exists():
        return []
    content = bounded_json.read(out / RESULTS)
    if content.get("request") != _kept(base):
        raise ValueError(f"{out} holds a search of something else ({content.get('request')}); name another folder")
    settings: list[dict[str, Any]] = content["settings"]
    return settings


def _kept(base: EvaluationRequest) -> dict[str, str]:
    """What two searches must have in common."""
    left = ("guidance", "temperature", "top_k", "top_p")
    return {name: str(value) for name, value in vars(base).items() if name not in left}


def _same(each: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(each[name] == value for name, value in settings.items())


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {_shown(value)}" for name, value in settings.items())


def _shown(value: float | None) -> str:
    return "all" if value is None else f"{value:g}"
