"""Metrics as interactive plots, several runs in each, drawn by Bokeh.

Every line is there twice: as it was written, faint, and smoothed by a moving average whose weight the page's slider
sets.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bokeh.embed import components
from bokeh.model import Model
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure
from bokeh.resources import Resources

from .array_plots import array_plots
from .colors import COLORS
from .plot_style import new_figure, styled
from .runs import ReportedRun, curve

LOG_RATIO = 20.0  # from the smallest to the largest value of a metric, from which on its axis is logarithmic
MOST_POINTS = 2000  # of a line; more are thinned out
SOURCE = "line-"  # the names of the sources that the page smooths begin so
UNITS = {
    "nll": "nats per code",
    "bits_per_code": "bits per code",
    "psnr": "dB",
    "seconds_per_step": "s",
    "stalled_seconds": "s",
    "data_wait": "share of time",
    "usage": "share of codes",
    "dead_codes": "codes",
    "top1": "share of codes",
    "top5": "share of codes",
    "discriminator_accuracy": "share of logits",
    "rolling_usage": "share of codes",
    "gpu_memory": "GiB",
    "bytes_per_second": "bytes/s",
    "images_per_second": "images/s",
    "images_per_second_per_gpu": "images/s",
    "tokens_per_second": "tokens/s",
    "tokens_per_second_per_gpu": "tokens/s",
    "mfu": "share of the peak",
}  # by the last part of a metric's name; others have none


class Plot(NamedTuple):
    """One metric of some runs."""

    metric: str
    caption: str  # the same in words, for who does not see it
    html: str  # where the script puts it


class Plots(NamedTuple):
    """All plots of a page."""

    library: str  # HTML: the scripts of Bokeh, once a page
    script: str  # HTML: what the plots hold
    plots: list[Plot]


def plots(runs: Mapping[str, ReportedRun]) -> Plots:
    """A plot for every metric that any of the runs has, validation first, and those of their arrays.

    Args:
        runs: by the names that the page gives them.
    """
    names = sorted(dict.fromkeys(name for run in runs.values() for name in metrics_of(run)), key=_order)
    lines = {name: {title: curve(run.lines, name) for title, run in runs.items()} for name in names}
    figures: dict[str, Model] = {name: _figure(name, of_runs) for name, of_runs in lines.items()}
    captions = {name: _caption(name, lines[name]) for name in names}
    for name, plot in array_plots(runs).items():
        figures[name], captions[name] = plot
    script, places = components(figures) if figures else ("", {})
    library = Resources(mode="inline", components=["bokeh"]).render_js()
    return Plots(library, script, [Plot(name, captions[name], places[name]) for name in figures])


def metrics_of(run: ReportedRun) -> list[str]:
    """The names of what a run has measured, but for alerts, which are events."""
    names = dict.fromkeys(name for line in run.lines for name in line if "/" in name)
    return [name for name in names if not name.startswith("train/alert_")]


def _order(name: str) -> tuple[int, str]:
    """Validation, then losses, then the rest."""
    return 0 if name.startswith("val/") else 1 if name.endswith(("loss", "nll")) else 2, name


def _figure(name: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> figure:
    values = [value for points in lines.values() for _, value in points if math.isfinite(value)]
    plot = new_figure(name, y_axis_type="log" if _is_logarithmic(values) else "linear")
    for number, (title, points) in enumerate(lines.items()):
        if points:
            _draw(plot, name, title, _thinned(points), COLORS[number % len(COLORS)])
    plot.xaxis.axis_label = "step"
    plot.yaxis.axis_label = UNITS.get(name.rpartition("/")[2], "")
    plot.add_tools(HoverTool(tooltips=[("", "$name"), ("step", "@step"), ("value", "@value{0.[000000]}")]))
    return styled(plot, sum(map(bool, lines.values())))


def _draw(plot: figure, name: str, title: str, points: Sequence[tuple[float, float]], color: str) -> None:
    steps, values = (list(column) for column in zip(*points, strict=True))
    source = ColumnDataSource({"step": steps, "value": values, "smooth": values}, name=f"{SOURCE}{name} {title}")
    plot.line("step", "value", source=source, color=color, alpha=0.3, legend_label=title, name=title)
    plot.line("step", "smooth", source=source, color=color, line_width=2, legend_label=title, name=title)
    plot.scatter("step", "value", source=source, color=color, size=5, alpha=0 if len(points) > 1 else 1, name=title)


def _is_logarithmic(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > LOG_RATIO * min(values)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``MOST_POINTS`` of a line's points, evenly, with the first and the last; not finite ones are gaps."""
    every = -(-len(points) // MOST_POINTS)
    kept = [*points[:-1:every], points[-1]]
    return [(step, value if math.isfinite(value) else math.nan) for step, value in kept]


def _caption(name: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A metric in words: its first and last value in every run."""
    unit = UNITS.get(name.rpartition("/")[2], "")
    said = [
        f"{title}: {points[0][1]:.4g} at step {points[0][0]:.0f}, {points[-1][1]:.4g} at step {points[-1][0]:.0f}"
        for title, points in lines.items()
        if points
    ]
    return f"{name}{f', {unit}' if unit else ''}. {'; '.join(said)}"
