"""How every plot of a page looks: on white and on black, as wide as there is room."""

from typing import Any

from bokeh.models.annotations import Title
from bokeh.plotting import figure

INK = "#808080"  # of axes and letters, read on white and on black


def new_figure(title: str, **settings: Any) -> figure:
    """An empty plot."""
    return figure(
        title=Title(text=title, text_color=INK),
        height=240,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset",
        active_scroll=None,
        output_backend="canvas",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0.3,
        **settings,
    )


def styled(plot: figure, runs: int) -> figure:
    """The plot with its axes and legend as all have them; the legend is seen from two runs on."""
    for axis in plot.axis:
        axis.axis_label_text_color = axis.major_label_text_color = axis.axis_line_color = INK
        axis.major_tick_line_color = axis.minor_tick_line_color = INK
    plot.grid.grid_line_alpha = 0.2
    plot.grid.grid_line_color = INK
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    if plot.legend:
        plot.legend.label_text_color = INK
        plot.legend.visible = runs > 1
        plot.legend.background_fill_alpha = 0
        plot.legend.border_line_alpha = 0
        plot.legend.click_policy = "hide"
    return plot
