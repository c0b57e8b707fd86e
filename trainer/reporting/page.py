"""One page of HTML about runs, with everything inside it: no server and no network, in any browser.

What the browser may load is forbidden by the page itself (Content-Security-Policy), but for what lies in it.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config import dump, to_mapping
from ..images.decode import open_image
from ..vqgan.config import VQGANRun
from . import curves
from .differences import config_differences
from .images import Encoded, Preview, encoded, previews
from .runs import ReportedRun, alerts
from .style import DIALOG, SCRIPT, STYLE

MOST_BYTES = 3_000_000  # of all images of a page; scripts and curves take some 1.5 MB besides
MARK = b"<title>smalti</title>"


def page(
    runs: Sequence[ReportedRun], summary: Sequence[str], images: Sequence[Path], spent: Mapping[str, float]
) -> str:
    """The whole page.

    Args:
        summary: its lines for the console.
        images: samples and their conditions, shown side by side at one size.
        spent: seconds by part.

    Raises:
        OSError: an image cannot be read.
    """
    named = titles(runs)
    drawn = curves.plots(named)
    budget = MOST_BYTES // max(1, len(images) + len(runs))
    body = [
        "<header><h1>smalti</h1>",
        f"<pre>{html.escape(chr(10).join(summary))}</pre></header>",
        *_section("Samples", [_shown(path, budget) for path in images], "samples"),
        *_section("Time", [_seconds(spent)] if spent else []),
        *_section("Curves", [_controls(), *map(_plot, drawn.plots)] if drawn.plots else [], "plots"),
        *_section("Differences between the runs", _differences(named)),
    ]
    for title, run in named.items():
        body += _section(title, _about(run, budget))
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data: blob:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">",
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f"{MARK.decode()}\n<style>{STYLE}</style>",
        f"{drawn.library}\n</head>\n<body>\n<main>",
        *body,
        f"</main>\n{DIALOG}\n{drawn.script}\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
    ])  # fmt: skip


def titles(runs: Sequence[ReportedRun]) -> dict[str, ReportedRun]:
    """The runs by the names that the page gives them: the folder's own where it is the only one, else its path."""
    names = [run.folder.resolve().name for run in runs]
    return {name if names.count(name) == 1 else str(run.folder): run for name, run in zip(names, runs, strict=True)}


def _section(title: str, inside: Sequence[str], kind: str = "") -> list[str]:
    """A part of the page, or nothing where nothing is in it."""
    if not inside:
        return []
    return [f"<section><h2>{html.escape(title)}</h2>", f'<div class="{kind}">', *inside, "</div></section>"]


def _shown(path: Path, most_bytes: int) -> str:
    """An image of a file, to be looked at closely by a click."""
    image = encoded(open_image(path).convert("RGB"), most_bytes)
    smaller = f", shown at 1/{image.shrunk} of its size" if image.shrunk > 1 else ""
    width, height = (side * image.shrunk for side in image.size)
    return _figure(image, f"{path.name} ({width} x {height}{smaller})")


def _figure(image: Encoded, caption: str) -> str:
    text, (width, height) = html.escape(caption), image.size
    return (
        f'<figure class="image"><button class="zoom" title="look closely"><img alt="{text}" width="{width}" '
        f'height="{height}" src="{image.url}"></button><figcaption>{text}</figcaption></figure>'
    )


def _controls() -> str:
    return (
        '<p class="controls"><label>smoothing <input type="range" id="smoothing" min="0" max="0.99" step="0.01" '
        'value="0"> <output id="smoothed">0</output></label></p>'
    )


def _plot(plot: curves.Plot) -> str:
    words = html.escape(plot.caption)
    return (
        f'<figure class="plot"><div role="img" aria-label="{words}">{plot.html}</div>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _seconds(spent: Mapping[str, float]) -> str:
    most = max(spent.values(), default=1.0) or 1.0
    rows = [
        f'<tr><th>{html.escape(name)}</th><td><meter value="{time:.0f}" max="{most:.0f}"></meter></td>'
        f"<td>{time:.0f} s</td></tr>"
        for name, time in spent.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _differences(runs: Mapping[str, ReportedRun]) -> list[str]:
    """A table for each stage of which there are several runs."""
    tables = []
    for kind, name in ((True, "VQGAN"), (False, "prior")):
        same = {title: to_mapping(run.run) for title, run in runs.items() if isinstance(run.run, VQGANRun) is kind}
        rows = [[row.key, *row.values] for row in config_differences(same)]
        if len(same) > 1:
            tables.append(_table([f"{name}: key", *same], rows) if rows else f"<p>{name}: none</p>")
    return tables


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    others = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{first}</tr></thead><tbody>{others}</tbody></table></div>'


def _about(run: ReportedRun, most_bytes: int) -> list[str]:
    """What is of one run alone: previews over time, alerts, where it ran, its config."""
    crop = run.run.val_data.crop
    row_height = getattr(crop, "size", None) if isinstance(run.run, VQGANRun) else None
    parts = []
    shown = previews(run.folder, row_height, most_bytes)
    if shown:
        parts.append(_slider(shown))
    raised = [[name, f"{first}", f"{last}"] for name, first, last in alerts(run.lines)]
    if raised:
        parts.append("<h3>Alerts</h3>" + _table(["alert", "first step", "last step"], raised))
    if run.starts:
        heads = ["began", "ranks", "hosts", "device", "versions", "job"]
        rows = [
            [
                str(start.began),
                str(start.ranks),
                ", ".join(dict.fromkeys(map(str, start.hosts))),
                str(start.device),
                ", ".join(f"{name} {version}" for name, version in start.versions.items()),
                ", ".join(f"{name} {value}" for name, value in start.job.items()),
            ]
            for start in run.starts
        ]
        parts.append("<h3>Starts</h3>" + _table(heads, rows))
    parts.append(f"<details><summary>config</summary><pre>{html.escape(dump(run.run))}</pre></details>")
    return parts


def _slider(shown: Sequence[Preview]) -> str:
    """Previews of several steps, one of which is seen."""
    steps = []
    for number, preview in enumerate(shown):
        strips = "".join(_figure(image, f"{what}, step {preview.step}") for what, image in preview.strips)
        hidden = "" if number == len(shown) - 1 else " hidden"
        steps.append(f'<div class="step"{hidden}>{strips}</div>')
    last = len(shown) - 1
    choice = (
        f'<p class="controls"><label>step <input type="range" class="steps" min="0" max="{last}" value="{last}"> '
        f"<output>{shown[-1].step}</output></label></p>"
    )
    numbers = ",".join(str(preview.step) for preview in shown)
    return f'<div class="previews" data-steps="{numbers}">{choice if last else ""}{"".join(steps)}</div>'
