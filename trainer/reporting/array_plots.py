"""Small arrays of runs as plots: how often codes are used, and how surprising each place of the grid is."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations import ColorBar
from bokeh.plotting import figure
from bokeh.transform import linear_cmap

from ...models.quantizers.usage import USE_BINS, USE_OCTAVES
from ..training.arrays import CODE_USE, NLL_BY_POSITION, StepArray
from .colors import COLORS
from .plot_style import INK, new_figure, styled
from .runs import ReportedRun

BINS = 1 + USE_BINS  # of a histogram of code use: codes that were not chosen, then half octaves of use


class ArrayPlot(NamedTuple):
    """A plot, and the same in words."""

    figure: figure
    caption: str


def array_plots(runs: Mapping[str, ReportedRun]) -> dict[str, ArrayPlot]:
    """The plots of the last arrays that runs have, by their titles.

    Args:
        runs: by the names that the page gives them.
    """
    found = {}
    used = {title: last for title, run in runs.items() if (last := _last(run, CODE_USE)) and len(last.values) == BINS}
    if used:
        found["code use"] = _code_use(used)
    for title, run in runs.items():
        last = _last(run, NLL_BY_POSITION)
        if last is not None and len(last.shape) == 2:
            found[f"NLL by position, {title}"] = _heat_map(title, last)
    return found


def _last(run: ReportedRun, name: str) -> StepArray | None:
    return next((array for array in reversed(run.arrays) if array.name == name), None)


def _code_use(used: Mapping[str, StepArray]) -> ArrayPlot:
    plot = new_figure("code use in training", x_axis_type="log")
    said = []
    for number, (title, array) in enumerate(used.items()):
        codes = sum(array.values) or 1.0
        edges = [2 ** ((place - 1) / 2 - USE_OCTAVES) for place in range(BINS + 1)]
        edges[0] = edges[1] / 2  # a place of its own, left of all others, for codes that were not chosen
        source = ColumnDataSource({
            "left": edges[:-1], "right": edges[1:], "share": [value / codes for value in array.values],
            "codes": array.values, "use": ["not chosen", *(f"{edge:.3g} times" for edge in edges[1:-1])],
        })  # fmt: skip
        plot.quad(
            left="left", right="right", top="share", bottom=0, source=source, fill_alpha=0.4, legend_label=title,
            name=title, color=COLORS[number % len(COLORS)],
        )  # fmt: skip
        said.append(f"{title}: {array.values[0]:.0f} of {codes:.0f} codes not chosen, at step {array.step}")
    plot.xaxis.axis_label = "use, in multiples of uniform use"
    plot.yaxis.axis_label = "share of codes"
    plot.add_tools(HoverTool(tooltips=[("", "$name"), ("use from", "@use"), ("codes", "@codes")]))
    words = "How many codes are used how often; the leftmost were not chosen at all. "
    return ArrayPlot(styled(plot, len(used)), words + "; ".join(said))


def _heat_map(title: str, array: StepArray) -> ArrayPlot:
    rows, columns = array.shape
    plot = new_figure(f"NLL by position, {title}", x_range=(-0.5, columns - 0.5), y_range=(rows - 0.5, -0.5))
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    source = ColumnDataSource(
        {"row": [row for row, _ in cells], "column": [column for _, column in cells], "nats": array.values}
    )
    known = [value for value in array.values if math.isfinite(value)] or [0.0]
    colored = linear_cmap("nats", "Viridis256", min(known), max(known), nan_color="gray")
    plot.rect("column", "row", 1, 1, source=source, fill_color=colored, line_color=None, name=title)
    plot.height, plot.aspect_ratio = None, max(0.25, min(4.0, columns / rows))
    bar = ColorBar(color_mapper=colored["transform"], width=8, background_fill_alpha=0, major_label_text_color=INK)
    plot.add_layout(bar, "right")
    plot.xaxis.axis_label, plot.yaxis.axis_label = "column", "row"
    plot.add_tools(HoverTool(tooltips=[("row", "@row"), ("column", "@column"), ("nats per code", "@nats")]))
    lowest, highest = min(known), max(known)
    words = f"Validation nats per code by place, {rows} x {columns}, at step {array.step}: "
    return ArrayPlot(styled(plot, 1), f"{words}{lowest:.3g} to {highest:.3g}, {title}")
